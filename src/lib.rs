//! x
#[doc(hidden)]
pub mod demo;
