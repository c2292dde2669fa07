//! The codec beside its peers, on the same messages, in turns, in one run.
//!
//! ```text
//! cargo bench -p trunkline-codec --features zstd --bench report
//! ... -- --only json        corpora, sessions and echoes whose name contains the word
//! ... -- --quick            a few seconds, rough
//! ... -- --json             one object per row
//! ```
//!
//! `benches/README.md` says what every column is, and what bounds it.

#[path = "../corpora/mod.rs"]
mod corpora;
mod echoes;
mod measure;
mod sessions;
mod subjects;
mod table;
mod targets;

use measure::Clock;

/// What the command line asks for.
struct Arguments {
    clock: Clock,
    json: bool,
    /// A part of the names to measure.
    only: Option<String>,
}

impl Arguments {
    /// Ends the process when an argument is not known.
    fn read() -> Self {
        let mut read = Self { clock: Clock::FULL, json: false, only: None };
        // `--bench` is cargo's.
        let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--json" => read.json = true,
                "--quick" => read.clock = Clock::QUICK,
                "--only" => read.only = Some(arguments.next().unwrap_or_else(|| unknown(&argument))),
                _ => unknown(&argument),
            }
        }
        read
    }
}

fn unknown(argument: &str) -> ! {
    eprintln!("report: {argument} is not known; use --quick, --json, and --only with a part of a name");
    std::process::exit(2)
}

fn main() {
    let Arguments { clock, json, only } = Arguments::read();
    let wanted = |name: &str| only.as_deref().is_none_or(|word| name.contains(word));
    if !json {
        table::head(&clock);
    }
    let mut reached = Vec::new();
    for corpus in corpora::all().into_iter().filter(|corpus| wanted(&corpus.name)) {
        let row = subjects::measure(&corpus, &clock);
        reached.extend(targets::of(&corpus, &row));
        if json { table::json(&row) } else { table::rows(&row) }
    }
    let sessions = sessions::all().into_iter().filter(|session| wanted(&session.name));
    for (index, session) in sessions.enumerate() {
        let row = sessions::measure(&session, &clock);
        reached.extend(targets::of_session(&row));
        if json {
            table::session_json(&row);
        } else {
            if index == 0 {
                table::session_head();
            }
            table::session_rows(&row);
        }
    }
    let echoes = echoes::all().into_iter().filter(|echo| wanted(&echo.name));
    for (index, echo) in echoes.enumerate() {
        let row = echoes::measure(&echo, &clock);
        if json {
            table::echo_json(&row);
        } else {
            if index == 0 {
                table::echo_head();
            }
            table::echo_rows(&row);
        }
    }
    if json { table::targets_json(&reached) } else { table::targets(&reached) }
}
