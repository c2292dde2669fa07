//! What fuzzing checks, one function per target. Each takes any bytes and reads from them what peers say and what happens.
//! `fuzz/` runs these functions with inputs that a fuzzer finds, `fuzzing.rs` with random ones, so that no target rots where
//! there is no fuzzer.
#![allow(dead_code, reason = "every fuzz target uses its own function")]

// In the order in which bytes travel.
mod hand;
#[path = "../hostile/shell.rs"]
mod shell;

mod control;
mod frames;
mod handshake;

mod rogue;

mod honest;

pub(crate) use control::control;
pub(crate) use frames::{batch, cuts};
pub(crate) use handshake::handshake;
pub(crate) use rogue::{member, origin, proxy};

/// What checks one input.
pub(crate) type Target = fn(&[u8]);

/// Every target, for whoever runs them all.
pub(crate) const TARGETS: [(&str, Target); 7] = [
    ("control", control),
    ("cuts", cuts),
    ("batch", batch),
    ("handshake", handshake),
    ("member", member),
    ("proxy", proxy),
    ("origin", origin),
];
