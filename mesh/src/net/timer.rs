//! Sleeps until the machine wants to be rung. Also the node's keeper: when this task ends, the node is closed.

use std::sync::Arc;

use super::shared::Shared;

/// Closes the node when the runtime drops the task before anybody closed it: no receipt stays pending then.
struct Keeper(Arc<Shared>);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.close(false);
    }
}

pub(super) fn start(shared: &Arc<Shared>) {
    let keeper = Keeper(Arc::clone(shared));
    shared.spawn(async move {
        tokio::select! {
            biased;
            () = keeper.0.closing() => {}
            () = run(&keeper.0) => {}
        }
    });
}

async fn run(shared: &Arc<Shared>) {
    loop {
        // At least as often as peers are pinged: who is set shows it with the next ping.
        let wall = shared.wall_at_zero();
        let Ok(next) = shared.with(|core, now| core.ring(wall, now)) else { break };
        let alarm = shared.alarm.notified();
        match shared.instant(next) {
            None => alarm.await,
            Some(next) => tokio::select! {
                biased;
                () = alarm => {}
                () = tokio::time::sleep_until(next) => {}
            },
        }
    }
}
