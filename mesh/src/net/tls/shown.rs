//! The certificate that a connection began with, and whether it would begin with it now.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::CertificateDer;

use super::super::secure::Side;
use super::certificate::{CertificateInfo, wall_s, within};
use super::credentials::Credentials;

/// A link outlives the certificate that it began with by so long, seconds: who renewed its certificate in time begins a new link
/// with the new one whenever there is a reason, and a stolen one is of no use for longer.
pub const EXPIRED_SPAN_S: i64 = 24 * 3600;

/// What the peer of a connection showed.
#[derive(Debug)]
pub(in super::super) struct Shown {
    /// Its own certificate first.
    chain: Vec<CertificateDer<'static>>,
    not_before_s: i64,
    not_after_s: i64,
    side: Side,
    /// By whom it was last found good.
    judge: Mutex<Arc<Credentials>>,
}

impl Shown {
    pub(super) fn new(
        chain: Vec<CertificateDer<'static>>,
        info: &CertificateInfo,
        side: Side,
        judge: Arc<Credentials>,
    ) -> Self {
        let (not_before_s, not_after_s) = (info.not_before_s, info.not_after_s);
        Self { chain, not_before_s, not_after_s, side, judge: Mutex::new(judge) }
    }

    /// Why the connection is to end: the certificate was taken back, its CA is trusted no more, or its time is long over.
    pub(super) fn wrong_with(&self, current: &Arc<Credentials>) -> Option<String> {
        if self.is_long_over(wall_s()) {
            return Some("it expired more than a day ago".to_owned());
        }
        let mut judge = self.judge.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&judge, current) {
            return None;
        }
        // Within its own time, as long as the moment above has not come.
        let at = within(self.not_before_s, self.not_after_s, wall_s());
        match current.judge(self.side, &self.chain, at) {
            Ok(()) => {
                *judge = Arc::clone(current);
                None
            }
            Err(error) => Some(error.to_string()),
        }
    }

    fn is_long_over(&self, now_s: i64) -> bool {
        now_s > self.not_after_s.saturating_add(EXPIRED_SPAN_S)
    }
}
