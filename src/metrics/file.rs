//! Whether the configuration file is in use as it was read last → a metric family, at nodes that follow one.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::catalog::catalog;
use super::family::{Spec, flag};

catalog! {
    REFUSED = gauge("config_refused", [],
        "1 while the configuration file, as it was read last, is refused and that of before stays in use, else 0.");
}

/// Whether it is refused.
pub(super) type Source = Box<dyn Fn() -> bool + Send + Sync>;

/// The family of a node that follows a file.
pub(super) struct File {
    descs: Vec<Desc>,
    source: Source,
}

impl File {
    pub(super) fn new(source: Source) -> Self {
        Self { descs: ALL.iter().map(|spec| spec.desc()).collect(), source }
    }
}

impl Collector for File {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        vec![REFUSED.family().value(&[], flag((self.source)())).done()]
    }
}
