//! Reads a connection: one read, its frames to the machine, the next read. While the machine works, nothing is read, and
//! TCP holds the peer back.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::cutter::{Cutter, SCRATCH_BYTES};
use super::port::{self, End, Port};
use super::secure::tell_ended;
use super::shared::Shared;
use super::stream::Input;
use crate::id::Lane;
use crate::proto::frame::Received;
use crate::proto::partial::Partial;

thread_local! {
    /// Where reads land. Emptied before the task yields, so that one per thread is enough.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
}

/// Tells the machine that a connection is over, when a task of it ends for whatever reason.
pub(super) struct Ended {
    shared: Arc<Shared>,
    port: Arc<Port>,
}

impl Ended {
    pub(super) fn new(shared: &Arc<Shared>, port: Arc<Port>) -> Self {
        Self { shared: Arc::clone(shared), port }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn port(&self) -> &Arc<Port> {
        &self.port
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.shared.with(|core, now| core.node.handle_closed(self.port.id, now));
    }
}

/// What one read brought.
enum Step {
    /// Its frames are with the machine. `full`: it was a large read, and there may be more.
    Taken { full: bool },
    /// The peer sends no more.
    Eof,
    /// The peer's bytes are no frames; the machine knows, and closes.
    Bad,
}

pub(super) async fn run(shared: &Arc<Shared>, port: &Arc<Port>, mut input: Input) {
    let tells_every = shared.settings(|settings| settings.ping_interval);
    let (cutter, partial) = (Cutter::default(), Partial::new(shared.now()));
    let mut intake = Intake { shared, port, cutter, frames: Vec::new(), partial, tells_every };
    loop {
        let step = tokio::select! {
            biased;
            end = port.closing() => return hear_out(shared, end, input).await,
            step = intake.step(&mut input) => step,
        };
        match step {
            Ok(Step::Taken { full: false }) => {}
            // The writers that were rung in between get their turn.
            Ok(Step::Taken { full: true }) => tokio::task::yield_now().await,
            Ok(Step::Bad) => return hear_out(shared, port.closing().await, input).await,
            Ok(Step::Eof) => return,
            Err(error) => {
                tell_ended(shared, port, &error);
                return;
            }
        }
    }
}

/// Lets the peer read the last words before the socket closes over what it still sends.
async fn hear_out(shared: &Arc<Shared>, end: &End, mut input: Input) {
    if let End::Words(_) = end
        && let Some(_leave) = shared.may_linger()
    {
        port::linger(&mut input).await;
    }
}

struct Intake<'a> {
    shared: &'a Arc<Shared>,
    port: &'a Arc<Port>,
    cutter: Cutter,
    frames: Vec<(Received, usize)>,
    partial: Partial,
    /// So often the machine is told that something comes.
    tells_every: Duration,
}

impl Intake<'_> {
    async fn step(&mut self, input: &mut Input) -> io::Result<Step> {
        if let Some(mut room) = self.cutter.direct() {
            let count = input.read_buf(&mut room).await?;
            if count == 0 {
                return Ok(Step::Eof);
            }
            self.partial.came(count);
            return Ok(match self.take(&[]) {
                Step::Taken { .. } => Step::Taken { full: true },
                other => other,
            });
        }
        std::future::poll_fn(|cx| {
            SCRATCH.with_borrow_mut(|scratch| {
                let mut read = ReadBuf::new(scratch);
                ready!(Pin::new(&mut *input).poll_read(cx, &mut read))?;
                let bytes = read.filled();
                Poll::Ready(Ok(if bytes.is_empty() { Step::Eof } else { self.take(bytes) }))
            })
        })
        .await
    }

    /// All that came is taken.
    fn tell_partial(&mut self, full: bool) -> Step {
        let control_bytes = self.cutter.awaits_control();
        let control = self.port.opened().is_some_and(|opened| opened.lane == Lane::Control);
        let now = self.shared.now();
        let Some(came) = self.partial.tell(control_bytes.is_some(), control, self.tells_every, now) else {
            return Step::Taken { full };
        };
        let port = self.port;
        let told = self.shared.with(|core, now| {
            core.node.handle_partial(port.id, control_bytes, came, now);
            core.node.settings().ping_interval
        });
        let Ok(tells_every) = told else { return Step::Bad };
        self.tells_every = tells_every;
        Step::Taken { full }
    }

    /// Frames are cut outside the lock and handed over inside, many in one section.
    fn take(&mut self, mut bytes: &[u8]) -> Step {
        let full = bytes.len() == SCRATCH_BYTES;
        self.partial.came(bytes.len());
        loop {
            let cut = self.cutter.cut(&mut bytes, &mut self.frames);
            if cut.is_ok() && self.frames.is_empty() {
                return self.tell_partial(full);
            }
            self.partial.frames(self.shared.now());
            let (port, frames) = (self.port, &mut self.frames);
            let opened = self.shared.with(|core, now| {
                let mut opened = None;
                for (received, length) in frames.drain(..) {
                    if let Some(just) = core.node.handle_frame(port.id, received, length, now) {
                        // Under the lock: the writer may be rung before this call returns.
                        port.open(just.clone());
                        opened = Some(just);
                    }
                }
                if let Err(error) = &cut {
                    core.node.handle_bad_frame(port.id, error, now);
                }
                opened
            });
            match (opened, cut) {
                (Err(_), _) | (_, Err(_)) => return Step::Bad,
                (Ok(Some(opened)), Ok(())) => self.cutter.open(opened),
                (Ok(None), Ok(())) => {}
            }
        }
    }
}
