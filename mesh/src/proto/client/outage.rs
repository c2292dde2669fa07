//! Which datacenters can be reached by proxy now, for whoever tells people of it.

use super::Client;
use crate::id::{Datacenter, Lane};
use crate::proto::links::Links;
use crate::proto::time::Micros;

impl Client {
    /// Every datacenter elsewhere that has proxies, with whether one of them is usable now, for either lane.
    pub fn proxied<'a>(
        &'a self,
        links: &'a Links,
        now: Micros,
    ) -> impl Iterator<Item = (&'a Datacenter, bool)> {
        let sites = self.sites.iter().filter(|site| site.present && !site.local);
        sites.filter_map(move |site| {
            let mut proxies = site.routes.proxies.iter().filter(|proxy| proxy.present).peekable();
            proxies.peek()?;
            let usable = proxies.any(|proxy| {
                let link = proxy.link.and_then(|link| links.link(link));
                let snoozed = |lane: Lane| {
                    let records = [&proxy.standing, &proxy.lanes[lane.index()]];
                    records.iter().any(|record| record.snoozed_until() > now)
                };
                link.is_some_and(|link| link.up && !link.draining)
                    && !proxy.is_ejected(now)
                    && !Lane::ALL.into_iter().all(snoozed)
            });
            Some((&site.name, usable))
        })
    }
}
