//! Passwords in command lines. On its host `ps` shows them to everybody; in Redis they would be shown to everybody who
//! can read the fleet. What is known to be a password is masked: it cannot be recognised in every program's arguments.

/// What is shown in place of a password.
const MASK: &str = "***";
/// Last parts of names whose value is a password: `--db-password`, `API_TOKEN=`, `?pass=`.
const SECRET: [&str; 9] =
    ["password", "passwd", "passphrase", "pass", "secret", "token", "apikey", "requirepass", "masterauth"];
/// The same with more than one part.
const SECRET_PAIRS: [[&str; 2]; 4] = [["api", "key"], ["access", "key"], ["private", "key"], ["rediscli", "auth"]];

/// Settings of Redis, followed by a password, as `CONFIG SET` takes them.
const SETTINGS: [&str; 2] = ["requirepass", "masterauth"];

/// Short options of programs, followed by a password.
const SHORT: [(&str, &str); 3] = [("redis-cli", "-a"), ("valkey-cli", "-a"), ("sshpass", "-p")];
/// Short options of programs to which a password is joined: `-pPASSWORD`.
const JOINED: [(&str, &str); 6] = [
    ("mysql", "-p"),
    ("mysqldump", "-p"),
    ("mysqladmin", "-p"),
    ("mariadb", "-p"),
    ("mariadb-dump", "-p"),
    ("sshpass", "-p"),
];
/// Options of programs, followed by `USER:PASSWORD`.
const LOGIN: [(&str, &str); 2] = [("curl", "-u"), ("curl", "--user")];

/// The arguments of a program, without the passwords in them.
pub(super) fn mask<'a>(arguments: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut masking = Masking::default();
    // An argument with blanks is a line of shell, or a title that the process has given itself.
    let masked = |argument: &str| {
        if !argument.contains(' ') {
            return masking.word(argument);
        }
        if std::mem::take(&mut masking.next) == Next::Password {
            return MASK.to_owned();
        }
        let mut inner = Masking::default();
        argument.split(' ').map(|word| inner.word(word)).collect::<Vec<_>>().join(" ")
    };
    arguments.map(masked).collect()
}

/// What the word to come is.
#[derive(Default, PartialEq, Eq)]
enum Next {
    #[default]
    Ordinary,
    Password,
    /// `USER:PASSWORD`.
    Login,
    /// The rest of a quoted password, up to this quote.
    Quoted(char),
}

/// Masks word after word.
#[derive(Default)]
struct Masking {
    /// The last word that named a program.
    program: String,
    next: Next,
}

impl Masking {
    fn word(&mut self, word: &str) -> String {
        match std::mem::take(&mut self.next) {
            Next::Quoted(quote) => {
                if !word.ends_with(quote) {
                    self.next = Next::Quoted(quote);
                }
                return MASK.into();
            }
            // An option without its value.
            Next::Password | Next::Login if word.starts_with('-') => {}
            Next::Password => return self.password(word),
            Next::Login => return word.split_once(':').map_or(word.into(), |(user, _)| format!("{user}:{MASK}")),
            Next::Ordinary => {}
        }

        let is_option = |(program, option): &(&str, &str)| *program == self.program && *option == word;
        let is_auth = self.program.ends_with("-cli") && word.eq_ignore_ascii_case("auth");
        let is_setting = SETTINGS.contains(&word) || (word.starts_with('-') && !word.contains('=') && is_secret(word));
        if is_auth || is_setting || SHORT.iter().any(&is_option) {
            self.next = Next::Password;
        } else if LOGIN.iter().any(is_option) {
            self.next = Next::Login;
        } else if let Some((_, option)) = JOINED
            .iter()
            .find(|(program, option)| *program == self.program && word.starts_with(option) && word.len() > option.len())
        {
            return format!("{option}{MASK}");
        } else if let Some((name, value)) = word.split_once('=').filter(|(name, _)| is_secret(name)) {
            return format!("{name}={}", self.password(value));
        } else {
            let name = word.rsplit('/').next().unwrap_or(word);
            if [SHORT.as_slice(), &JOINED, &LOGIN].concat().iter().any(|(program, _)| *program == name) {
                name.clone_into(&mut self.program);
            }
            return mask_url(word);
        }
        word.into()
    }

    /// The mask of a password, which may go on in the next word if it is quoted.
    fn password(&mut self, word: &str) -> String {
        if let Some(quote) = word.chars().next().filter(|first| ['\'', '"'].contains(first))
            && (word.len() == 1 || !word.ends_with(quote))
        {
            self.next = Next::Quoted(quote);
        }
        MASK.into()
    }
}

/// Whether this is the name of a password: an option, a variable or a setting.
fn is_secret(name: &str) -> bool {
    let name = name.trim_start_matches('-').to_lowercase();
    let mut parts = name.rsplit(['-', '_', '.']);
    let (last, before) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    SECRET.contains(&last) || SECRET_PAIRS.contains(&[before, last]) || name.ends_with("password")
}

/// A word with the passwords of the URLs in it masked: `scheme://user:password@host/?password=…`.
fn mask_url(word: &str) -> String {
    let Some((scheme, rest)) = word.split_once("://") else { return word.into() };
    let (before_query, query) = rest.split_once('?').map_or((rest, None), |(before, query)| (before, Some(query)));
    let masked = match before_query.rsplit_once('@') {
        Some((login, host)) => match login.split_once(':') {
            Some((user, _)) => format!("{scheme}://{user}:{MASK}@{host}"),
            None => format!("{scheme}://{before_query}"),
        },
        // The password itself may hold a question mark.
        None if before_query.contains(':') && query.is_some_and(|query| query.contains('@')) => {
            return format!("{scheme}://{MASK}");
        }
        None => format!("{scheme}://{before_query}"),
    };
    let Some(query) = query else { return masked };
    let parameter = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if is_secret(name) => format!("{name}={MASK}"),
        _ => pair.to_owned(),
    };
    format!("{masked}?{}", query.split('&').map(parameter).collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(arguments: &[&str]) -> String {
        mask(arguments.iter().copied()).join(" ")
    }

    #[test]
    fn passwords_are_masked_wherever_programs_take_them() {
        for (line, masked) in [
            ("worker --redis redis://ann:hunter2@h:6379/1", "worker --redis redis://ann:***@h:6379/1"),
            ("worker --redis redis://:hun@ter2@h", "worker --redis redis://:***@h"),
            ("worker --redis redis://:hun?ter2@h", "worker --redis redis://***"),
            ("ctl --redis=unix:///s?db=1&pass=hunter2", "ctl --redis=unix:///s?db=1&pass=***"),
            ("psql postgresql://ann:hunter2@h/db", "psql postgresql://ann:***@h/db"),
            ("redis-cli -h r -a hunter2 ping", "redis-cli -h r -a *** ping"),
            ("/usr/bin/valkey-cli --pass hunter2", "/usr/bin/valkey-cli --pass ***"),
            ("redis-cli auth hunter2", "redis-cli auth ***"),
            ("redis-cli config set requirepass hunter2", "redis-cli config set requirepass ***"),
            ("redis-server --requirepass hunter2 --port 1", "redis-server --requirepass *** --port 1"),
            ("java -Ddb.password=hunter2 -jar x", "java -Ddb.password=*** -jar x"),
            ("tool --password=hunter2-token --x", "tool --password=*** --x"),
            ("tool --password=hunter2 --api-key hunter2", "tool --password=*** --api-key ***"),
            ("env DB_PASSWORD=hunter2 TOKEN=hunter2 run", "env DB_PASSWORD=*** TOKEN=*** run"),
            ("sudo sshpass -p hunter2 ssh h", "sudo sshpass -p *** ssh h"),
            ("mysql -u root -phunter2 db", "mysql -u root -p*** db"),
            ("curl -u ann:hunter2 https://h", "curl -u ann:*** https://h"),
        ] {
            assert_eq!(shown(&line.split(' ').collect::<Vec<_>>()), masked);
        }
    }

    #[test]
    fn lines_of_shell_are_read_word_by_word() {
        let line = "exec redis-cli -a hunter2 get x; tool --password='hun ter2' && mysql -phunter2";
        let masked = "exec redis-cli -a *** get x; tool --password=*** *** && mysql -p***";
        assert_eq!(shown(&["sh", "-c", line]), format!("sh -c {masked}"));
        assert_eq!(shown(&["tool", "--password", "hun ter2", "x"]), "tool --password *** x");
    }

    #[test]
    fn everything_else_stays() {
        for line in [
            "redis-server *:6379",
            "tar -a -c -p x",
            "nginx -p /srv",
            "tool --pass -x",
            "ssh ann@h ls /etc/passwd",
            "pass show mail",
            "mysql -u root -p db",
            "curl https://h/a?b=c&d",
            "git clone git@h:x",
            "a=b=c --keep=1",
        ] {
            assert_eq!(shown(&line.split(' ').collect::<Vec<_>>()), line);
        }
    }
}
