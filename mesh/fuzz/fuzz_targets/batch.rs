//! Batches of a connection: envelopes and codec frames that are not what they seem.
#![no_main]

#[path = "../../tests/bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::batch(data));
