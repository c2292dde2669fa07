//! One end of a relayed connection: a socket, what it sends into the WAN, and what arrives for it.
//!
//! ```text
//!                 ┌──────── read ────────┐   room in the outlet, else not read
//!   socket ───────┤                      ├──▶ outlet      0 bytes → Fin, error → Reset
//!   socket ◀──────┤ write, when due      ├─── inlet       Fin → FIN, Reset → RST at once, whatever is unwritten
//!                 └──────────────────────┘
//! ```
//! The end is over when both directions have ended, or one of them was aborted.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::time::Duration;

use bytes::{Buf, Bytes};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::pipe::{Arrival, Clock, Event, Inlet, Outlet};

/// See the module.
#[derive(Debug)]
pub(super) struct End {
    clock: Clock,
    socket: TcpStream,
    outlet: Outlet,
    inlet: Inlet,
    /// The first event that has arrived and is not due.
    next: Option<Arrival>,
    /// Due, not yet written.
    ready: VecDeque<Bytes>,
    /// The other end has closed its direction.
    fin_due: bool,
    /// The socket has not ended its direction.
    reading: bool,
    /// We have not ended ours.
    writing: bool,
    buffer: Vec<u8>,
}

/// The end was aborted; its socket is to be dropped.
struct Aborted;

impl End {
    pub(super) fn new(clock: Clock, socket: TcpStream, outlet: Outlet, inlet: Inlet) -> Self {
        let (next, ready, buffer) = (None, VecDeque::new(), Vec::new());
        Self {
            clock,
            socket,
            outlet,
            inlet,
            next,
            ready,
            fin_due: false,
            reading: true,
            writing: true,
            buffer,
        }
    }

    /// Carries events until the end is over.
    pub(super) async fn run(mut self) {
        while self.reading || self.writing {
            if self.step().await.is_err() {
                return;
            }
        }
    }

    async fn step(&mut self) -> Result<(), Aborted> {
        self.collect_due()?;
        self.write_due()?;
        if !self.reading && !self.writing {
            return Ok(());
        }
        let room = if self.reading { self.outlet.room() } else { 0 };
        let due_at = self.next.as_ref().map(|a| self.clock.at(a.at));
        tokio::select! {
            arrival = self.inlet.recv(), if due_at.is_none() => self.next = Some(arrival),
            () = sleep_until(due_at), if due_at.is_some() => {}
            // An error shows when we write.
            _ = self.socket.writable(), if !self.ready.is_empty() => {}
            _ = self.socket.readable(), if room > 0 => self.read(room)?,
            () = self.outlet.wait_for_room(), if self.reading && room == 0 => {}
            // While we do not read, an abort would go unseen.
            _ = self.socket.ready(Interest::ERROR), if room == 0 => return Err(self.report_reset()),
        }
        Ok(())
    }

    /// Takes over what is due. Never early: due is what the clock says, not what the timer says.
    fn collect_due(&mut self) -> Result<(), Aborted> {
        loop {
            let Some(arrival) = self.next.take().or_else(|| self.inlet.try_recv()) else { return Ok(()) };
            if arrival.at > self.clock.now() {
                self.next = Some(arrival);
                return Ok(());
            }
            match arrival.event {
                Event::Data(data) if self.writing => self.ready.push_back(data),
                Event::Data(data) => self.inlet.written(data.len()),
                Event::Fin => self.fin_due = true,
                Event::Reset => {
                    self.write_due()?;
                    abort(&self.socket);
                    return Err(Aborted);
                }
                // Taken by `opened` before there is an end.
                Event::Open => {}
            }
        }
    }

    /// Writes what the socket takes; FIN behind the last byte.
    fn write_due(&mut self) -> Result<(), Aborted> {
        while let Some(front) = self.ready.front_mut() {
            match self.socket.try_write(front) {
                Ok(bytes) => {
                    front.advance(bytes);
                    self.inlet.written(bytes);
                    if front.is_empty() {
                        self.ready.pop_front();
                    }
                }
                Err(e) if would_wait(&e) => return Ok(()),
                Err(_) => return self.handle_write_error(),
            }
        }
        if self.fin_due && self.writing {
            self.writing = false;
            // An error means that the socket is dead already; reading tells.
            let _ = SockRef::from(&self.socket).shutdown(Shutdown::Write);
        }
        Ok(())
    }

    /// The receiver answered a write with RST. What it had sent before is still to be read.
    fn handle_write_error(&mut self) -> Result<(), Aborted> {
        self.writing = false;
        for data in self.ready.drain(..) {
            self.inlet.written(data.len());
        }
        while self.reading {
            let room = self.outlet.room();
            if room == 0 {
                break;
            }
            self.buffer.resize(room, 0);
            match self.socket.try_read(&mut self.buffer) {
                Ok(bytes @ 1..) => {
                    self.outlet.send(Event::Data(Bytes::copy_from_slice(&self.buffer[..bytes])))
                }
                _ => break,
            }
        }
        Err(self.report_reset())
    }

    fn read(&mut self, room: usize) -> Result<(), Aborted> {
        self.buffer.resize(room, 0);
        match self.socket.try_read(&mut self.buffer) {
            Ok(0) => {
                self.reading = false;
                self.outlet.send(Event::Fin);
            }
            Ok(bytes) => self.outlet.send(Event::Data(Bytes::copy_from_slice(&self.buffer[..bytes]))),
            Err(e) if would_wait(&e) => {}
            Err(_) => return Err(self.report_reset()),
        }
        Ok(())
    }

    fn report_reset(&mut self) -> Aborted {
        self.outlet.send(Event::Reset);
        Aborted
    }
}

/// Waits until the far end learns of the connection; what follows waits in the inlet.
pub(super) async fn opened(clock: Clock, inlet: &mut Inlet) {
    let at = inlet.recv().await.at;
    while clock.now() < at {
        tokio::time::sleep_until(clock.at(at)).await;
    }
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Makes the socket send RST instead of FIN when dropped.
fn abort(socket: &TcpStream) {
    // Fails only on a socket that is dead already.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

fn would_wait(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
