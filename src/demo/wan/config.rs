//! What the WAN looks like: datacenters, delays, rates, buffers.

use std::num::NonZeroU64;
use std::time::Duration;

use super::window::WindowLimits;
use crate::demo::Dc;

/// The one-way delay between two datacenters, the same in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OneWay {
    /// The two ends, in any order.
    pub between: (Dc, Dc),
    /// From the last bit sent at one to the first received at the other.
    pub delay: Duration,
}

/// The shape of the WAN.
#[derive(Debug, Clone)]
pub struct WanConfig {
    /// What each datacenter may send to all others together, bytes per second; its length is the number of datacenters.
    pub egress_bytes_per_s: Vec<NonZeroU64>,
    /// Delays; a pair that is not here has no path and [`super::Wan::relay`] refuses it.
    pub one_way: Vec<OneWay>,
    /// What one direction of a connection may have waiting for the egress, and again for its receiver, bytes.
    /// More: a sender learns later that the link is full. Less than the egress sends in about 5 ms: timers cost bandwidth.
    pub buffer_bytes: usize,
}

impl WanConfig {
    /// The demo's WAN: `dcs` datacenters with the same egress, delays by [`one_way_ms`] times `delay_scale`, and a
    /// buffer of 20 ms of egress (64 KiB to 4 MiB).
    ///
    /// # Panics
    /// If `delay_scale` is negative or not finite.
    #[must_use]
    pub fn demo(dcs: usize, egress_bytes_per_s: NonZeroU64, delay_scale: f64) -> Self {
        let mut one_way = Vec::new();
        for low in 0..dcs {
            for high in low + 1..dcs {
                let delay = Duration::from_millis(one_way_ms(Dc(low), Dc(high))).mul_f64(delay_scale);
                one_way.push(OneWay { between: (Dc(low), Dc(high)), delay });
            }
        }
        let buffer = (egress_bytes_per_s.get() / 50).clamp(64 * 1024, 4 * 1024 * 1024);
        let buffer_bytes = usize::try_from(buffer).expect("at most 4 MiB");
        Self { egress_bytes_per_s: vec![egress_bytes_per_s; dcs], one_way, buffer_bytes }
    }

    /// The one-way delay between two datacenters, if there is a path.
    #[must_use]
    pub fn delay(&self, a: Dc, b: Dc) -> Option<Duration> {
        self.one_way.iter().find(|w| w.between == (a, b) || w.between == (b, a)).map(|w| w.delay)
    }

    /// Limits of one direction of one connection that leaves `from`, `delay` before it arrives.
    pub(super) fn window(&self, from: Dc, delay: Duration) -> WindowLimits {
        let rate = self.egress_bytes_per_s[from.0].get();
        let on_the_way = u128::from(rate) * delay.as_micros() / 1_000_000;
        let on_the_way = usize::try_from(on_the_way).unwrap_or(usize::MAX);
        // What the link sends in a millisecond, between an Ethernet frame and 16 KiB: nobody waits long for one turn.
        let item_max = usize::try_from((rate / 1_000).clamp(1_500, 16 * 1024)).expect("at most 16 KiB");
        let queued_max = self.buffer_bytes.max(item_max);
        WindowLimits { queued_max, held_max: on_the_way.saturating_add(queued_max), item_max }
    }
}

/// One-way delay between two datacenters of the demo at scale 1, milliseconds: 40 between the first two, 75 from the
/// first to the third, 110 between second and third; each further one is 35 more from the first, and paths between
/// two others go roughly by way of the first.
#[must_use]
pub fn one_way_ms(a: Dc, b: Dc) -> u64 {
    let from_first = |dc: usize| 40 + 35 * (dc as u64 - 1);
    match (a.0.min(b.0), a.0.max(b.0)) {
        (low, high) if low == high => 0,
        (0, high) => from_first(high),
        (low, high) => from_first(low) + from_first(high) - 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_has_the_delays_it_promises() {
        let wan = WanConfig::demo(4, NonZeroU64::new(12_500_000).unwrap(), 1.0);
        let ms = |a, b| wan.delay(Dc(a), Dc(b)).map(|d| d.as_millis());
        assert_eq!([ms(0, 1), ms(0, 2), ms(1, 2), ms(3, 0)], [Some(40), Some(75), Some(110), Some(110)]);
        assert_eq!([ms(2, 1), ms(1, 1), ms(0, 4)], [Some(110), None, None]);
        assert_eq!(wan.buffer_bytes, 250_000);
        let scaled = WanConfig::demo(2, NonZeroU64::new(1).unwrap(), 0.25);
        assert_eq!(scaled.delay(Dc(0), Dc(1)), Some(Duration::from_millis(10)));
    }

    #[test]
    fn a_window_holds_bandwidth_times_delay_and_the_buffer() {
        let wan = WanConfig::demo(2, NonZeroU64::new(10_000_000).unwrap(), 1.0);
        let window = wan.window(Dc(0), Duration::from_millis(40));
        assert_eq!((window.queued_max, window.held_max, window.item_max), (200_000, 600_000, 10_000));
    }
}
