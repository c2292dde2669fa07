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
            let routes = &site.routes;
            let is_usable = |lane: &Lane| routes.linked(*lane, links, now).next().is_some();
            routes
                .proxies
                .iter()
                .any(|proxy| proxy.present)
                .then(|| (&site.name, Lane::ALL.iter().any(is_usable)))
        })
    }
}
