//! Looks at the files from time to time, so that a renewed certificate is used without a word from anybody.

use std::sync::Arc;
use std::time::Duration;

use super::super::shared::Shared;

/// A loop without a pause would read files all the time.
const INTERVAL_MIN: Duration = Duration::from_millis(1);

/// The interval is tokio's time, which tests may stop.
pub(in super::super) fn start(shared: &Arc<Shared>, interval: Duration) {
    let node = Arc::clone(shared);
    shared.spawn(async move {
        tokio::select! {
            biased;
            () = node.closing() => {}
            () = run(&node, interval) => {}
        }
    });
}

async fn run(shared: &Arc<Shared>, interval: Duration) {
    loop {
        tokio::time::sleep(interval.max(INTERVAL_MIN)).await;
        // What is wrong with them is logged and counted there.
        let _ = shared.reload().await;
    }
}
