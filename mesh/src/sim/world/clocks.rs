//! Every host has a monotonic clock of its own, which may run faster or slower than the run's.

use super::*;

const MILLION: u128 = 1_000_000;

impl World {
    /// Now, as this host's machine sees it.
    pub(super) fn clock(&self, host: NodeIx) -> Micros {
        let local = u128::from(self.now.0) * u128::from(self.hosts[host].clock_ppm) / MILLION;
        Micros(u64::try_from(local).unwrap_or(u64::MAX))
    }

    /// The moment at which this host's clock shows that.
    pub(super) fn moment(&self, host: NodeIx, local: Micros) -> Micros {
        if local == Micros::NEVER {
            return local;
        }
        let moment = (u128::from(local.0) * MILLION).div_ceil(u128::from(self.hosts[host].clock_ppm));
        Micros(u64::try_from(moment).unwrap_or(u64::MAX))
    }
}
