//! Rows for people, and the same as JSON, one object per line.

use std::thread::available_parallelism;

use crate::echoes::EchoRow;
use crate::measure::Clock;
use crate::sessions::SessionRow;
use crate::subjects::Row;
use crate::targets::Target;

/// The machine, and the names of the columns.
pub(crate) fn head(clock: &Clock) {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": an unknown CPU");
    let cores = available_parallelism().map_or(1, usize::from);
    println!(
        "{}, {cores} cores. One thread, medians of {} interleaved rounds.",
        model.trim_matches([' ', '\t', ':']),
        clock.rounds
    );
    println!(
        "GB/s are 10^9 bytes of all messages per second; cpy and cmp are ratios to memcpy and memcmp of as many."
    );
    println!(
        "own is memcpy over decoding to one kept buffer per message. ! names a peer that is smaller by more than 2 % and encodes faster.\n"
    );
    println!(
        "{:<36} {:>3} {:>8}  {:<13} {:>8} {:>8} {:>5} {:>5} {:>9} {:>8} {:>6} {:>5}",
        "corpus",
        "m",
        "input B",
        "subject",
        "bytes",
        "enc GB/s",
        "cpy",
        "cmp",
        "enc us",
        "dec GB/s",
        "cpy",
        "own"
    );
}

/// All subjects of a corpus.
pub(crate) fn rows(row: &Row) {
    let gbs = |seconds: f64| row.input_bytes as f64 / seconds / 1e9;
    println!(
        "{:<36} {:>3} {:>8}  memcpy {:.1}, memcmp {:.1}, CRC32C of distinct memory in {:.2} us",
        row.name,
        row.m,
        row.input_bytes,
        gbs(row.memcpy),
        gbs(row.memcmp),
        row.crc * 1e6
    );
    for cell in &row.cells {
        let mark = cell.beaten_by.map_or_else(String::new, |peer| format!(" ! {peer}"));
        let owned = cell.owned.map_or_else(String::new, |owned| format!("{:.2}", row.memcpy / owned));
        println!(
            "{:<36} {:>3} {:>8}  {:<13} {:>8} {:>8.2} {:>5.2} {:>5.2} {:>9.2} {:>8.2} {:>6.2} {owned:>5}{mark}",
            "",
            "",
            "",
            cell.subject,
            cell.bytes,
            gbs(cell.encode),
            row.memcpy / cell.encode,
            row.memcmp / cell.encode,
            cell.encode * 1e6,
            gbs(cell.decode),
            row.memcpy / cell.decode,
        );
    }
}

/// The names of the columns of sessions.
pub(crate) fn session_head() {
    println!(
        "\n{:<28} {:>8}  {:<14} {:>8} {:>8} {:>8} {:>8} {:>6} {:>8} {:>6}",
        "session", "input B", "subject", "B/frame", "B/beat", "x new", "enc GB/s", "x", "dec GB/s", "x"
    );
}

/// All subjects of a session. Bytes per heartbeat only where there is nothing else, over new bytes only where there are.
pub(crate) fn session_rows(row: &SessionRow) {
    let gbs = |seconds: f64| row.input_bytes as f64 / seconds / 1e9;
    let stream = row.cells.last().expect("the peer");
    for (index, cell) in row.cells.iter().enumerate() {
        let bytes = cell.bytes as f64;
        let (beat, new) = match row.new_bytes {
            0 => (format!("{:.2}", bytes / row.heartbeats as f64), "-".to_owned()),
            new => ("-".to_owned(), format!("{:.3}", bytes / new as f64)),
        };
        let wins = stream.bytes * 102 < cell.bytes * 100
            && matches!((stream.encode, cell.encode), (Some(peer), Some(own)) if peer < own);
        let mark = if wins { " ! zstd -1 stream" } else { "" };
        let (name, input) =
            if index == 0 { (row.name.as_str(), row.input_bytes.to_string()) } else { ("", String::new()) };
        let (gbs_encode, over_stream) = match (cell.encode, stream.encode) {
            (Some(own), Some(peer)) => (format!("{:.3}", gbs(own)), format!("{:.2}", peer / own)),
            _ => ("-".to_owned(), "-".to_owned()),
        };
        println!(
            "{name:<28} {input:>8}  {:<14} {:>8.1} {beat:>8} {new:>8} {gbs_encode:>8} {over_stream:>6} {:>8.3} {:>6.2}{mark}",
            cell.subject,
            bytes / row.frames as f64,
            gbs(cell.decode),
            stream.decode / cell.decode,
        );
    }
}

/// The names of the columns of echoes.
pub(crate) fn echo_head() {
    println!(
        "\n{:<28} {:>8}  {:<14} {:>8} {:>8} {:>8} {:>8} {:>6}",
        "echo", "input B", "subject", "B up", "B down", "x new", "GB/s", "x"
    );
}

/// All subjects of an echo. Bytes are per frame of each direction; the factor is what goes down over what is new.
pub(crate) fn echo_rows(row: &EchoRow) {
    let stream = row.cells.last().expect("the peer");
    for (index, cell) in row.cells.iter().enumerate() {
        let (name, input) =
            if index == 0 { (row.name.as_str(), row.input_bytes.to_string()) } else { ("", String::new()) };
        println!(
            "{name:<28} {input:>8}  {:<14} {:>8.1} {:>8.1} {:>8.3} {:>8.3} {:>6.2}",
            cell.subject,
            cell.up as f64 / row.rounds as f64,
            cell.down as f64 / row.rounds as f64,
            cell.down as f64 / row.new_bytes as f64,
            row.input_bytes as f64 / cell.time / 1e9,
            stream.time / cell.time,
        );
    }
}

/// Every promise, the broken ones first.
pub(crate) fn targets(all: &[Target]) {
    if all.is_empty() {
        return;
    }
    let met = all.iter().filter(|target| target.met()).count();
    println!("\nTargets met in this run: {met} of {}", all.len());
    let mut kinds: Vec<&str> = all.iter().map(|target| target.what).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for kind in kinds {
        let of_kind = || all.iter().filter(|target| target.what == kind);
        // Over what was wanted: above 1 is beyond it where it is the most, below 1 where it is the least.
        let ratio = |target: &&Target| match target.wanted {
            0.0 => target.measured,
            wanted => target.measured / wanted,
        };
        let worse = |a: &&Target, b: &&Target| match a.at_least {
            true => ratio(b).total_cmp(&ratio(a)),
            false => ratio(a).total_cmp(&ratio(b)),
        };
        let worst = of_kind().max_by(worse).expect("of one target at least");
        println!(
            "  {:<50} {:>3} of {:>3}, worst {:>6.2} for {:.2}",
            kind,
            of_kind().filter(|target| target.met()).count(),
            of_kind().count(),
            worst.measured,
            worst.wanted
        );
    }
    if met < all.len() {
        println!("Missed:");
    }
    for target in all.iter().filter(|target| !target.met()) {
        let border = if target.at_least { "at least" } else { "at most" };
        let leaves = target.leaves.as_ref().map_or_else(String::new, |leaves| {
            let (all, spent, pieces) = (leaves.all, leaves.spent, leaves.pieces);
            format!(
                ": {all:.0} ns, of which copy and checksum {spent:.0}; {pieces} pieces, {:.1} each",
                leaves.per_piece()
            )
        });
        println!(
            "  {:<36} {:<50} {:>8.2}, {border} {:.2}{leaves}",
            target.corpus, target.what, target.measured, target.wanted
        );
    }
}

/// A corpus as JSON.
pub(crate) fn json(row: &Row) {
    let ns = |seconds: f64| seconds * 1e9;
    for cell in &row.cells {
        let owned = cell.owned.map_or_else(|| "null".to_owned(), |owned| format!("{:.1}", ns(owned)));
        let peer = cell.beaten_by.map_or_else(|| "null".to_owned(), |peer| format!("\"{peer}\""));
        println!(
            "{{\"corpus\":\"{}\",\"messages\":{},\"input_bytes\":{},\"subject\":\"{}\",\"bytes\":{},\"encode_ns\":{:.1},\
             \"decode_ns\":{:.1},\"decode_owned_ns\":{owned},\"memcpy_ns\":{:.1},\"memcmp_ns\":{:.1},\
             \"crc32c_distinct_ns\":{:.1},\"beaten_by\":{peer}}}",
            row.name,
            row.m,
            row.input_bytes,
            cell.subject,
            cell.bytes,
            ns(cell.encode),
            ns(cell.decode),
            ns(row.memcpy),
            ns(row.memcmp),
            ns(row.crc),
        );
    }
}

/// A session as JSON.
pub(crate) fn session_json(row: &SessionRow) {
    for cell in &row.cells {
        let encode = cell.encode.map_or_else(|| "null".to_owned(), |encode| format!("{:.1}", encode * 1e9));
        println!(
            "{{\"session\":\"{}\",\"frames\":{},\"input_bytes\":{},\"new_bytes\":{},\"heartbeats\":{},\"subject\":\"{}\",\
             \"bytes\":{},\"encode_ns\":{encode},\"decode_ns\":{:.1}}}",
            row.name,
            row.frames,
            row.input_bytes,
            row.new_bytes,
            row.heartbeats,
            cell.subject,
            cell.bytes,
            cell.decode * 1e9,
        );
    }
}

/// An echo as JSON.
pub(crate) fn echo_json(row: &EchoRow) {
    for cell in &row.cells {
        println!(
            "{{\"echo\":\"{}\",\"rounds\":{},\"input_bytes\":{},\"new_bytes\":{},\"subject\":\"{}\",\"up_bytes\":{},\
             \"down_bytes\":{},\"exchange_ns\":{:.1}}}",
            row.name,
            row.rounds,
            row.input_bytes,
            row.new_bytes,
            cell.subject,
            cell.up,
            cell.down,
            cell.time * 1e9,
        );
    }
}

/// The promises as JSON.
pub(crate) fn targets_json(all: &[Target]) {
    for target in all {
        println!(
            "{{\"target\":\"{}\",\"corpus\":\"{}\",\"measured\":{:.4},\"wanted\":{:.4},\"at_least\":{},\"met\":{}}}",
            target.what,
            target.corpus,
            target.measured,
            target.wanted,
            target.at_least,
            target.met()
        );
    }
}
