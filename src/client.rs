//! A client of the replicated log: every committed entry, in order, whichever node is there to tell it.
//!
//! ```no_run
//! # async fn example() -> Result<(), trunkline::client::SubscribeError> {
//! use trunkline::client::{Address, Subscription};
//!
//! let nodes = [Address::plaintext("127.4.1.1:7480"), Address::plaintext("127.4.2.1:7480")];
//! let mut subscription = Subscription::open(nodes, 0);
//! loop {
//!     let entry = subscription.next().await?;
//!     println!("{} {:?}", entry.index, entry.what);
//! }
//! # }
//! ```
//!
//! [`Address`] says where a node serves clients, and whether within TLS; [`Subscription`] goes on at another node where one
//! fails. An index means the same at every node, so nothing is left out and nothing comes twice. Where the log begins later than
//! what is asked for, [`Snapshot`] has what was before.

mod connection;
mod entry;
mod error;
mod lines;
mod members;
mod snapshot;
mod subscription;
#[cfg(test)]
mod tests;

pub use connection::Address;
pub use entry::{Entry, Outcome, What};
pub use error::{AskError, SnapshotError, SubscribeError, Wanted};
pub(crate) use members::{Member, Members};
pub use snapshot::{Pair, Snapshot};
pub use subscription::{Event, Subscription, newest};
