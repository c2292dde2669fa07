//! What connections write: what is next, and how far their kernels are with it.

use super::{Node, Transmit};
use crate::proto::frame::{SealedBatch, Token, Written};
use crate::proto::links::ConnId;
use crate::proto::time::Micros;

impl Node {
    /// What is to be written next to this connection. Ask again after it was written, until it is empty.
    pub fn poll_transmit(&mut self, conn: ConnId, now: Micros) -> Transmit {
        let mut transmit = Transmit::default();
        self.links.poll_frames(conn, &mut transmit.frames, now);
        if let Some((link, lane)) = self.links.link_of(conn).filter(|(link, _)| self.links.is_up(*link)) {
            if let Some(client) = self.client.as_mut() {
                client.seal(link, lane, &mut self.links, now, &mut transmit.batches);
            }
            if let Some(proxy) = self.proxy.as_mut() {
                proxy.seal(link, lane, &mut self.links, now, &mut transmit.batches);
            }
            // Whatever else goes says it too.
            if self.links.take_news(conn) && transmit.batches.is_empty() {
                transmit.batches.push(SealedBatch::news(lane));
            }
            if !transmit.batches.is_empty() {
                self.links.poll_acks(conn, true, &mut transmit.frames);
                transmit.frames.extend(self.links.poll_roster(link, lane));
            }
        }
        self.settle(now);
        if !transmit.is_empty()
            && let Some(of) = self.links.link_of(conn).filter(|(link, _)| self.links.is_up(*link))
            && let Some(client) = self.client.as_mut()
        {
            client.handle_writing(of, &self.links, now);
        }
        transmit
    }

    /// The kernel took some of what [`Node::poll_transmit`] gave, and has no room for the rest.
    pub fn handle_progress(&mut self, conn: ConnId, now: Micros) {
        if let Some((of, client)) = self.links.link_of(conn).zip(self.client.as_mut()) {
            client.handle_progress(of, now);
        }
    }

    /// What [`Node::poll_transmit`] gave went out, `bytes` long.
    pub fn handle_written(&mut self, conn: ConnId, written: &[Written], bytes: usize, now: Micros) {
        self.links.handle_written(conn, bytes, written, now);
        for batch in written {
            match batch.token {
                Token::Attempt(attempt) => {
                    if let Some(client) = self.client.as_mut() {
                        client.handle_written(attempt, batch, &self.links, now);
                    }
                }
                Token::Forward { received_at } => {
                    if let Some(proxy) = self.proxy.as_mut() {
                        proxy.handle_written(received_at, now);
                    }
                }
                Token::News => {}
            }
        }
        if let Some((of, client)) = self.links.link_of(conn).zip(self.client.as_mut()) {
            client.handle_wrote(of, &mut self.links, now);
        }
    }
}
