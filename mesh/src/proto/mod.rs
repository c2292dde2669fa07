//! The mesh as pure machines: bytes and time go in, bytes and events come out. No sockets, no clock, no tokio.
//!
//! In travel order: [`node`] composes everything; a batch enters the [`client`], which cuts it into [`flow`]s and picks a
//! [`route`]; [`links`] carries it over connections that went through the [`handshake`]; a [`proxy`] passes runs on; a
//! [`member`] keeps a [`window`] per origin and fills the inbox. Public for tests, benches and simulation only.

pub mod node;

pub mod client;
// The client's parts, in the order a batch meets them.
pub mod attempt;
pub mod back;
pub mod budget;
pub mod deadlines;
pub mod decision;
pub mod flow;
pub mod flow_set;
pub mod hearsay;
pub mod held;
pub mod pause;
pub mod reports;
pub mod route;
pub mod seqs;
pub mod spare;
pub mod standing;
pub mod under_way;
pub mod verdict;
pub mod words;
pub mod writing;

pub mod links;
// What a link is made of.
pub mod coder;
pub mod echo;
pub mod frame;
pub mod handshake;
pub mod partial;
pub mod roster;
pub mod rtt;
pub mod schema;
pub mod tails;
pub mod wire;

pub mod proxy;
mod queue;
// When what it passes back to an origin goes.
pub mod answers;

pub mod member;
// What a member cuts, keeps per origin and lane, and hands over.
pub mod deliveries;
pub mod floors;
pub mod run;
pub mod wall;
pub mod window;

#[cfg(feature = "sim")]
pub mod kept;

pub mod time;
pub mod timers;
