//! What a leader of 20 datacenters with 50 members each allocates, by proxies and directly: for a message under way, and with nothing
//! under way. Bytes and time are in `scale`.
//!
//! All is counted that the leader asks its allocator for when what was done to it is done once more to one that is by itself: links,
//! flows, sessions of the codec and what is written of messages, and not their bytes, which are the caller's.
//!
//! ```text
//! cargo bench --bench scale_memory               # some minutes
//! cargo bench --bench scale_memory -- --quick    # about a minute
//! ```

use allocation_counter::measure;
use leader::{DATACENTERS, EVERY, PER_BATCH, Run, median};

#[path = "scale/leader.rs"]
mod leader;

fn main() {
    println!(
        "{DATACENTERS} datacenters, a batch for each every {} ms; KiB that the leader has",
        EVERY.as_millis()
    );
    for per_batch in PER_BATCH {
        println!("\n{per_batch} for each member in a batch\n");
        println!("members  way       per message under way       idle");
        for run in leader::runs(per_batch) {
            let [under_way, idle] = memory(&run).map(|bytes| bytes / 1024.0);
            println!("{:7}  {:8} {under_way:22.0} {idle:10.0}", DATACENTERS * run.members, run.way.label());
        }
    }
}

/// Medians of the rounds: bytes that it has at most for a message under way, and in all when nothing is.
fn memory(run: &Run) -> [f64; 2] {
    let mut allocated = Vec::new();
    run.replay(|stretch| allocated.push(measure(stretch)));
    let (mut idle, mut rounds) = (0, Vec::new());
    for pair in allocated.chunks_exact(2) {
        idle += pair[0].bytes_current;
        rounds.push([pair[1].bytes_max as f64 / run.under_way(), idle as f64]);
        idle += pair[1].bytes_current;
    }
    [0, 1].map(|column| median(rounds.iter().map(|round| round[column])))
}
