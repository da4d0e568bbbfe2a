//! The state of the screen, and what keys change about it.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::order::Sort;
use crate::client::{Filter, FilterError};

/// The state of the screen.
#[derive(Debug, Default)]
pub struct Screen {
    sort: Sort,
    reversed: bool,
    /// The first host that is shown.
    first: usize,
    /// How many fit, and how many there are, when it was drawn last.
    page: usize,
    rows: usize,
    shows_help: bool,
    /// The filter as it is typed.
    typed: Option<String>,
    /// The filter before it was typed anew; empty where there was none.
    kept: String,
}

/// What follows from a key.
#[derive(Debug)]
pub enum Reaction {
    /// Nothing but a new picture.
    Draw,
    /// The end.
    Quit,
    /// From now on this filter holds, too.
    Filter(Option<Filter>),
}

impl Screen {
    /// What the hosts are sorted by, and whether in reverse.
    pub const fn order(&self) -> (Sort, bool) {
        (self.sort, self.reversed)
    }

    /// Whether the meaning of the keys is shown.
    pub const fn shows_help(&self) -> bool {
        self.shows_help
    }

    /// The filter as it is typed, and what is wrong with it.
    pub fn typed(&self) -> Option<(&str, Option<FilterError>)> {
        let text = self.typed.as_deref()?;
        Some((text, read(text).err()))
    }

    /// Takes note of how many hosts there are, and how many fit. Returns the first that is shown.
    pub fn fit(&mut self, page: usize, rows: usize) -> usize {
        (self.page, self.rows) = (page, rows);
        self.first = self.first.min(rows.saturating_sub(page));
        self.first
    }

    /// A key was pressed.
    pub fn press(&mut self, key: KeyEvent) -> Reaction {
        if key.kind == KeyEventKind::Release {
            return Reaction::Draw;
        }
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c' | 'd') if is_control => Reaction::Quit,
            code if self.typed.is_some() => self.edit(code, is_control),
            KeyCode::Char('q') | KeyCode::Esc => Reaction::Quit,
            code => {
                self.command(code);
                Reaction::Draw
            }
        }
    }

    fn command(&mut self, code: KeyCode) {
        match code {
            KeyCode::Char('/') => self.typed = Some(self.kept.clone()),
            KeyCode::Char('?' | 'h') => self.shows_help = !self.shows_help,
            KeyCode::Char('R') => self.reversed = !self.reversed,
            KeyCode::Char('s') => self.sort_by(self.sort.next()),
            KeyCode::Up | KeyCode::Char('k') => self.first = self.first.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.scroll_to(self.first + 1),
            KeyCode::PageUp => self.first = self.first.saturating_sub(self.page),
            KeyCode::PageDown | KeyCode::Char(' ') => self.scroll_to(self.first + self.page),
            KeyCode::Home | KeyCode::Char('g') => self.first = 0,
            KeyCode::End | KeyCode::Char('G') => self.scroll_to(usize::MAX),
            KeyCode::Char(key) => {
                if let Some(sort) = Sort::of_key(key) {
                    self.sort_by(sort);
                }
            }
            _ => {}
        }
    }

    fn scroll_to(&mut self, first: usize) {
        self.first = first.min(self.rows.saturating_sub(self.page));
    }

    fn sort_by(&mut self, sort: Sort) {
        (self.sort, self.reversed, self.first) = (sort, false, 0);
    }

    /// A key was pressed while the filter is typed. What can be read holds at once.
    fn edit(&mut self, code: KeyCode, is_control: bool) -> Reaction {
        let text = self.typed.get_or_insert_default();
        match code {
            KeyCode::Esc => {
                self.typed = None;
                return Reaction::Filter(read(&self.kept).unwrap_or_default());
            }
            KeyCode::Enter => {
                if read(text).is_ok() {
                    self.kept = self.typed.take().unwrap_or_default();
                }
                return Reaction::Draw;
            }
            KeyCode::Backspace => drop(text.pop()),
            KeyCode::Char('u') if is_control => text.clear(),
            KeyCode::Char('w') if is_control => {
                let rest = text.trim_end().rfind(' ').map_or(0, |blank| blank + 1);
                text.truncate(rest);
            }
            KeyCode::Char(char) if !is_control => text.push(char),
            _ => return Reaction::Draw,
        }
        self.first = 0;
        read(text).map_or(Reaction::Draw, Reaction::Filter)
    }
}

/// The filter that was typed; none where nothing was.
fn read(text: &str) -> Result<Option<Filter>, FilterError> {
    if text.trim().is_empty() { Ok(None) } else { text.parse().map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(screen: &mut Screen, code: KeyCode) -> Reaction {
        screen.press(KeyEvent::new(code, KeyModifiers::NONE))
    }

    /// Types a text. Returns the filter that holds then, if that was changed by the last key; none is empty.
    fn type_text(screen: &mut Screen, text: &str) -> Option<String> {
        let last = text.chars().map(|char| press(screen, KeyCode::Char(char))).last();
        match last {
            Some(Reaction::Filter(filter)) => Some(filter.map(|filter| filter.text().to_owned()).unwrap_or_default()),
            _ => None,
        }
    }

    #[test]
    fn keys_sort_and_reverse() {
        let mut screen = Screen::default();
        type_text(&mut screen, "m");
        assert_eq!(screen.order(), (Sort::Memory, false));
        type_text(&mut screen, "R");
        assert_eq!(screen.order(), (Sort::Memory, true));
        type_text(&mut screen, "s");
        assert_eq!(screen.order(), (Sort::Disk, false));
        type_text(&mut screen, "x");
        assert_eq!(screen.order(), (Sort::Disk, false));
    }

    #[test]
    fn scrolling_stays_within_the_hosts() {
        let mut screen = Screen::default();
        assert_eq!(screen.fit(10, 25), 0);
        for (code, first) in [
            (KeyCode::Up, 0),
            (KeyCode::Down, 1),
            (KeyCode::PageDown, 11),
            (KeyCode::PageDown, 15),
            (KeyCode::Down, 15),
            (KeyCode::PageUp, 5),
            (KeyCode::End, 15),
            (KeyCode::Home, 0),
        ] {
            press(&mut screen, code);
            assert_eq!(screen.fit(10, 25), first, "{code:?}");
        }
        press(&mut screen, KeyCode::End);
        assert_eq!(screen.fit(10, 12), 2, "there are fewer hosts now");
        assert_eq!(screen.fit(10, 5), 0);
    }

    #[test]
    fn the_filter_holds_while_it_is_typed_and_mistakes_are_pointed_at() {
        let mut screen = Screen::default();
        assert_eq!(type_text(&mut screen, "/cpuu.usage"), None);
        let (text, problem) = screen.typed().unwrap();
        let problem = problem.unwrap();
        assert_eq!((text, problem.place().clone()), ("cpuu.usage", 0..10));
        assert!(problem.problem().contains("did you mean cpu.usage?"));
        press(&mut screen, KeyCode::Enter);
        assert!(screen.typed().is_some(), "nothing is kept that cannot be read");

        screen.press(KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL));
        assert_eq!(type_text(&mut screen, "cpu.usage > 8"), Some("cpu.usage > 8".into()));
        // What would be a command is a part of the text.
        assert_eq!(type_text(&mut screen, "q"), None);
        assert!(matches!(press(&mut screen, KeyCode::Backspace), Reaction::Filter(Some(_))));
        press(&mut screen, KeyCode::Enter);
        assert!(screen.typed().is_none());

        // Who changes one's mind has the former filter.
        assert_eq!(type_text(&mut screen, "/"), None);
        screen.press(KeyEvent::new(KeyCode::Char('w'), KeyModifiers::CONTROL));
        assert_eq!(screen.typed().unwrap().0, "cpu.usage > ");
        let Reaction::Filter(Some(filter)) = press(&mut screen, KeyCode::Esc) else { panic!("no filter") };
        assert_eq!(filter.text(), "cpu.usage > 8");

        type_text(&mut screen, "/");
        screen.press(KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL));
        press(&mut screen, KeyCode::Enter);
        type_text(&mut screen, "/");
        assert_eq!(screen.typed().unwrap().0, "", "an empty line takes the filter away");
    }

    #[test]
    fn it_ends_with_q_escape_and_control_c() {
        let quits = |screen: &mut Screen, code, modifiers| {
            matches!(screen.press(KeyEvent::new(code, modifiers)), Reaction::Quit)
        };
        let screen = &mut Screen::default();
        assert!(quits(screen, KeyCode::Char('q'), KeyModifiers::NONE));
        assert!(quits(screen, KeyCode::Esc, KeyModifiers::NONE));
        assert!(quits(screen, KeyCode::Char('c'), KeyModifiers::CONTROL));
        type_text(screen, "/");
        assert!(!quits(screen, KeyCode::Char('q'), KeyModifiers::NONE));
        assert!(quits(screen, KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert!(!quits(screen, KeyCode::Esc, KeyModifiers::NONE), "it only ends the typing");
    }
}
