//! Datacenters that have lost their last usable proxy, and that have one again: for the log.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Node;
use crate::id::Datacenter;
use crate::proto::time::Micros;

/// Between two looks; a link that comes or goes is looked at in any case.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// So long after the start, or after a datacenter was first heard of, that no proxy of it is linked yet is no news.
const NO_NEWS_FOR: Duration = Duration::from_secs(5);

/// What was last told of every datacenter elsewhere that has proxies.
#[derive(Default)]
pub(super) struct Outages {
    known: BTreeMap<Datacenter, Known>,
    look_at: Micros,
}

#[derive(Clone, Copy)]
enum Known {
    /// No proxy yet, since then.
    New(Micros),
    Usable,
    /// Told, since then.
    Lost(Micros),
}

/// What is to be told of one.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Lost,
    Back(Duration),
}

impl Outages {
    /// Something happened that the next look is not to wait for.
    pub(super) fn hurry(&mut self) {
        self.look_at = Micros(0);
    }

    /// What is new, by how it is now.
    fn look<'a>(
        &mut self,
        now: Micros,
        proxied: impl Iterator<Item = (&'a Datacenter, bool)>,
    ) -> Vec<(Datacenter, News)> {
        let (mut news, mut known) = (Vec::new(), BTreeMap::new());
        for (datacenter, usable) in proxied {
            let before = self.known.remove(datacenter).unwrap_or(Known::New(now));
            let after = match (before, usable) {
                (Known::New(_), true) => Known::Usable,
                (Known::Usable, false) => Known::Lost(now),
                (Known::New(since), false) if now.since(since) >= NO_NEWS_FOR => Known::Lost(since),
                (Known::Lost(_), true) => Known::Usable,
                (same, _) => same,
            };
            match (before, after) {
                (Known::Lost(since), Known::Usable) => {
                    news.push((datacenter.clone(), News::Back(now.since(since))));
                }
                (Known::New(_) | Known::Usable, Known::Lost(_)) => {
                    news.push((datacenter.clone(), News::Lost));
                }
                _ => {}
            }
            known.insert(datacenter.clone(), after);
        }
        self.known = known;
        news
    }
}

impl Node {
    /// Tells which datacenters have no usable proxy any more, or again.
    pub(super) fn tell_outages(&mut self, now: Micros) {
        let Some(client) = self.client.as_ref().filter(|_| self.outages.look_at <= now && !self.draining)
        else {
            return;
        };
        self.outages.look_at = now + LOOK_EVERY;
        for (datacenter, news) in self.outages.look(now, client.proxied(&self.links, now)) {
            match news {
                News::Lost => tracing::warn!(
                    %datacenter,
                    "no usable proxy: what is sent there goes directly, one copy per member; `trunkline routes` says why"
                ),
                News::Back(after) => tracing::info!(%datacenter, ?after, "a proxy is usable again"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datacenter_that_loses_its_last_proxy_is_told_once_and_when_it_has_one_again() {
        let (eu, us) = (Datacenter::new("eu").unwrap(), Datacenter::new("us").unwrap());
        let mut outages = Outages::default();
        let mut look = |s: u64, of: &[(&Datacenter, bool)]| {
            outages
                .look(Micros(s * 1_000_000), of.iter().copied())
                .into_iter()
                .map(|(_, news)| news)
                .collect::<Vec<_>>()
        };
        assert_eq!(look(0, &[(&eu, false), (&us, false)]), [], "they are being dialled");
        assert_eq!(look(4, &[(&eu, true), (&us, false)]), []);
        assert_eq!(look(5, &[(&eu, true), (&us, false)]), [News::Lost], "us never had one");
        assert_eq!(look(6, &[(&eu, false), (&us, false)]), [News::Lost]);
        assert_eq!(look(7, &[(&eu, false), (&us, false)]), [], "told once");
        let back = look(9, &[(&eu, true), (&us, true)]);
        assert_eq!(back, [News::Back(Duration::from_secs(3)), News::Back(Duration::from_secs(9))]);
        assert_eq!(look(10, &[(&us, true)]), [], "eu has no proxies any more");
        assert_eq!(look(11, &[(&eu, false), (&us, true)]), [], "and begins anew");
    }
}
