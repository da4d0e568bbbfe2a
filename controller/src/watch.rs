//! Waiting for a job in front of a person: what arrives is reported, Ctrl-C detaches.

use std::pin::pin;

use crate::{
    dispatch::Job,
    error::{self, Advice},
    exit::Exit,
    fleet::Fleet,
    follow::Follower,
    printer::Printer,
    report::Report,
    settings::Format,
    tail::Tail,
};

/// Reports answers as they come, and at the end the whole. The question has been asked: whatever happens
/// now, the exit code is by the answers. `live`: output is printed as it comes.
pub async fn watch(
    fleet: &mut Fleet,
    job: &Job,
    mut follower: Follower<'_>,
    printer: &Printer,
    live: bool,
) -> anyhow::Result<Exit> {
    let mut tail = (live && printer.format() == Format::Table).then(|| Tail::new(job, printer));
    if tail.is_some() {
        follower.keep_output();
    }
    let report = Report::new(job, printer);
    let mut interrupt = pin!(tokio::signal::ctrl_c());
    let mut detached = false;
    // A bar and output that comes line by line would be in each other's way.
    if tail.is_none() {
        printer.start_progress(job.targets.len());
    }
    while !follower.is_done() && !detached {
        let news = tokio::select! {
            // Where the signal cannot be caught, it ends the process as it always did.
            Ok(()) = &mut interrupt => {
                printer.leave_line();
                detached = true;
                Ok(())
            }
            news = follower.next(fleet) => news,
        };
        if let Err(error) = news {
            printer.error(&resume(&error, job).into());
            break;
        }
        if let Some(tail) = &mut tail {
            follower.take_output().iter().try_for_each(|piece| tail.piece(piece))?;
        }
        for answer in follower.take_finished().iter().filter_map(|host| follower.answer(host)) {
            match &mut tail {
                Some(tail) => tail.end(&answer.host, answer.outcome.as_ref())?,
                None => report.arrived(answer)?,
            }
        }
        printer.progress(follower.done());
    }
    printer.stop_progress();
    let answers = follower.answers();
    let exit = Exit::of(answers.iter().map(|answer| answer.state));
    report.finish(&answers, fleet.clock.now())?;
    if detached {
        printer.note(&format!("detached; the job goes on: ctl job wait {}", job.id()));
    }
    Ok(exit)
}

fn resume(error: &anyhow::Error, job: &Job) -> Advice {
    let advice = error::hints(error).into_iter().fold(Advice::new(format!("{error:#}")), Advice::hint);
    advice.hint(format!("the job goes on without us: ctl job wait {}", job.id()))
}
