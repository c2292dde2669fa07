//! `trunkline log`: what a data directory's log holds, and whether it is whole.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::failure::Failure;
use super::output::base64;
use super::status::print;
use super::table::{Align, Table};
use crate::config::units::show_count;
use crate::storage::{DataDirectory, Entry, EntryId, Inspection, LOG, StorageError, end_doubt};

#[derive(Debug, clap::Subcommand)]
pub(super) enum LogCommand {
    /// Read every record of a stopped node's log, and tell whether it is whole; exit code 65 if it is not
    ///
    /// Nothing is changed. Bytes behind the last record of the newest segment are no damage: a crash leaves them, the next
    /// start cuts them off, and the node then catches up before it votes.
    Verify(VerifyArgs),
    /// Print the entries of a stopped node's log, one per line
    ///
    /// Payloads are shown as text, with what is no printable ASCII escaped; as JSON, they are in base64.
    Dump(DumpArgs),
    /// Take what a stopped node's log has for all that it ever acknowledged, so that it votes again
    ///
    /// For a cluster of which a majority is in doubt at once, after a loss of power: nobody is elected then. Of those in doubt
    /// trust as few as make a majority with the others, those whose last entries are of the highest term and index. What they
    /// acknowledged and lost is gone for good, unless another voter has it.
    Trust(TrustArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct TrustArgs {
    /// The data directory of the node
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Entries that clients were told are safe may be lost by this
    #[arg(long, required = true)]
    accept_loss: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// The data directory of the node
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(super) struct DumpArgs {
    /// The data directory of the node
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The first index to print
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    from: u64,
    /// Most entries that are printed
    #[arg(long, value_name = "COUNT", default_value_t = u64::MAX, hide_default_value = true)]
    count: u64,
    /// Most characters of a payload that are printed
    #[arg(long, value_name = "COUNT", default_value_t = 80, conflicts_with = "json")]
    width: usize,
    /// A JSON object per line, with the whole payload
    #[arg(long)]
    json: bool,
}

/// An entry as a JSON line.
#[derive(Serialize)]
struct Line {
    index: u64,
    term: u64,
    bytes: usize,
    payload_base64: String,
}

pub(super) fn log(command: &LogCommand) -> Result<(), Failure> {
    match command {
        LogCommand::Verify(args) => verify(args),
        LogCommand::Dump(args) => dump(args),
        LogCommand::Trust(args) => trust(args),
    }
}

/// Looks at the log of a directory that nobody else has, and that is there.
fn look(directory: &Path, show: impl FnMut(Entry) -> bool) -> Result<Inspection, Failure> {
    if !directory.join("log").is_dir() {
        let shown = directory.display();
        let holds_segments = std::fs::read_dir(directory).is_ok_and(|mut files| {
            files
                .any(|file| file.is_ok_and(|file| file.file_name().to_string_lossy().starts_with("segment-")))
        });
        return Err(Failure::Config(match directory.exists() {
            false => format!("{shown} does not exist"),
            true if holds_segments => {
                format!("{shown} holds segments: give the directory in which it is the `log`")
            }
            true => format!("{shown} is no data directory: there is no `log` in it"),
        }));
    }
    let directory = DataDirectory::open(directory)?;
    Ok(Inspection::of(&directory.sub_directory(LOG)?, show)?)
}

fn trust(args: &TrustArgs) -> Result<(), Failure> {
    // The same refusals as for those that look.
    look(&args.directory, |_| false)?;
    let directory = DataDirectory::open(&args.directory)?;
    let ended = end_doubt(directory.sub_directory(LOG)?)?;
    let last = ended.last.map_or_else(
        || "there are no entries".to_owned(),
        |last| format!("the last entry is {} of term {}", last.index, last.term),
    );
    print(&match ended.from {
        Some(from) => format!(
            "{last}. What was acknowledged from index {from} on and is not there is given up: the node votes again\n"
        ),
        None => format!("{last}. Nothing is in doubt, and nothing was changed\n"),
    })
}

fn verify(args: &VerifyArgs) -> Result<(), Failure> {
    let mut last = None;
    let found = look(&args.directory, |entry| {
        last = Some(entry.id);
        true
    })?;
    print(&report(&found, last))?;
    match found.problems.len() {
        0 => Ok(()),
        count => Err(Failure::Corrupt(format!(
            "the log has {}: a node does not start on it. Keep the directory, take the node out of the cluster, and let it \
             come back as a learner with an empty one",
            show_count(count as u64, "problem"),
        ))),
    }
}

/// What there is, for people.
fn report(found: &Inspection, last: Option<EntryId>) -> String {
    let mut text = String::new();
    if let Some(identity) = &found.identity {
        let _ = writeln!(text, "node {} of cluster {}\n", identity.node, identity.cluster);
    }
    let mut table = Table::new(&[
        (Align::Left, "segment"),
        (Align::Right, "first index"),
        (Align::Right, "entries"),
        (Align::Right, "bytes"),
    ]);
    for segment in &found.segments {
        let numbers = [segment.first, segment.entries, segment.bytes];
        table.row(
            std::iter::once(segment.name.clone()).chain(numbers.map(|number| number.to_string())).collect(),
        );
    }
    let _ = writeln!(text, "{table}");
    let indexes = found.indexes();
    let committed = found.committed.clamp(indexes.start, indexes.end) - indexes.start;
    let _ = match indexes.end - indexes.start {
        _ if !found.problems.is_empty() => Ok(()),
        0 => writeln!(text, "no entries; the next one has index {}", indexes.end),
        count => writeln!(
            text,
            "{} from index {} on, the last of term {}; {committed} known to be committed",
            entries(count),
            indexes.start,
            last.map_or(0, |last| last.term),
        ),
    };
    if found.torn_bytes > 0 {
        let _ = writeln!(
            text,
            "the last {} B are no record: a crash tears a tail. The next start cuts them off; then the node is in doubt",
            found.torn_bytes,
        );
    }
    if let Some(index) = found.in_doubt {
        let _ = writeln!(
            text,
            "in doubt: entries from index {index} on may be missing, until the node has caught up"
        );
    }
    for problem in &found.problems {
        let _ = writeln!(text, "{problem}");
    }
    if found.problems.is_empty() {
        text.push_str("no damage\n");
    }
    text
}

fn entries(count: u64) -> String {
    if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") }
}

fn dump(args: &DumpArgs) -> Result<(), Failure> {
    let mut stdout = std::io::BufWriter::new(std::io::stdout().lock());
    let mut left = args.count;
    let mut written = Ok(());
    let found = look(&args.directory, |entry| {
        if entry.id.index >= args.from && left > 0 {
            left -= 1;
            let line = if args.json { json_line(&entry) } else { text_line(&entry, args.width) };
            written = stdout.write_all(line.as_bytes());
        }
        left > 0 && written.is_ok()
    })?;
    written.and_then(|()| stdout.flush()).map_err(Failure::stdout)?;
    let indexes = found.indexes();
    match found.problems.into_iter().next() {
        None if left == args.count && left > 0 => Err(Failure::Failed(format!(
            "no entry from index {} on: the log has {} from index {}",
            args.from,
            entries(indexes.end - indexes.start),
            indexes.start,
        ))),
        None => Ok(()),
        Some(problem) => Err(problem.into()),
    }
}

fn json_line(entry: &Entry) -> String {
    let line = Line {
        index: entry.id.index,
        term: entry.id.term,
        bytes: entry.payload.len(),
        payload_base64: base64(&entry.payload),
    };
    // Four plain fields: nothing there can fail.
    serde_json::to_string(&line).unwrap_or_default() + "\n"
}

fn text_line(entry: &Entry, width: usize) -> String {
    let mut shown = String::new();
    for byte in &entry.payload {
        let escaped = byte.escape_ascii();
        if shown.len() + escaped.len() > width {
            shown.push_str("...");
            break;
        }
        shown.extend(escaped.map(char::from));
    }
    let (index, term, bytes) = (entry.id.index, entry.id.term, entry.payload.len());
    let line = format!("index {index:<8}  term {term:<4}  {bytes:>6} B  {shown}");
    format!("{}\n", line.trim_end())
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        let text = error.to_string();
        match error {
            StorageError::Corrupt { .. } => Self::Corrupt(text),
            StorageError::Io { .. } => Self::Io(text),
            StorageError::Foreign { .. } => Self::Config(text),
            StorageError::Locked { .. } => Self::Unavailable(text),
            _ => Self::Failed(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::storage::EntryId;

    use super::*;

    #[test]
    fn payloads_do_not_steer_the_terminal_and_are_cut_to_width() {
        let entry =
            Entry { id: EntryId { term: 2, index: 17 }, payload: b"put a=\x1b[31m\n".as_slice().into() };
        assert_eq!(text_line(&entry, 80), "index 17        term 2         12 B  put a=\\x1b[31m\\n\n");
        assert_eq!(text_line(&entry, 5), "index 17        term 2         12 B  put a...\n");
        let json = "{\"index\":17,\"term\":2,\"bytes\":12,\"payload_base64\":\"cHV0IGE9G1szMW0K\"}\n";
        assert_eq!(json_line(&entry), json);
    }
}
