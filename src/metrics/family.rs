//! Metric families built from plain numbers.

use prometheus::core::Desc;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use trunkline_mesh::stats::{Histogram as Latencies, LATENCY_BUCKETS_US};

use super::Described;

/// What a family is called, says and may hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Spec {
    pub(super) const fn counter(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self { name, kind: Kind::Counter, labels, help }
    }

    pub(super) const fn gauge(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self { name, kind: Kind::Gauge, labels, help }
    }

    pub(super) const fn histogram(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self { name, kind: Kind::Histogram, labels, help }
    }

    pub(super) fn described(&self) -> Described {
        let kind = match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        Described { name: self.name, kind, labels: self.labels, help: self.help }
    }

    /// What the registry checks for uniqueness.
    pub(super) fn desc(&self) -> Desc {
        let labels = self.labels.iter().map(|label| (*label).to_owned()).collect();
        Desc::new(self.name.to_owned(), self.help.to_owned(), labels, std::collections::HashMap::new())
            .expect("names and labels of the catalog are legal, which a test asserts")
    }

    /// A family without rows.
    pub(super) fn family(&'static self) -> Family {
        Family { spec: self, rows: Vec::new() }
    }
}

/// A family under construction.
pub(super) struct Family {
    spec: &'static Spec,
    rows: Vec<Metric>,
}

impl Family {
    /// Adds a row of a counter.
    pub(super) fn count(mut self, labels: &[&str], value: u64) -> Self {
        assert_eq!(self.spec.kind, Kind::Counter, "{}", self.spec.name);
        let mut counter = Counter::default();
        counter.set_value(float(value));
        let mut row = self.row(labels);
        row.set_counter(counter);
        self.rows.push(row);
        self
    }

    /// Adds a row of a gauge.
    pub(super) fn value(mut self, labels: &[&str], value: f64) -> Self {
        assert_eq!(self.spec.kind, Kind::Gauge, "{}", self.spec.name);
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut row = self.row(labels);
        row.set_gauge(gauge);
        self.rows.push(row);
        self
    }

    /// Adds a row of a histogram, in seconds.
    pub(super) fn latencies(mut self, labels: &[&str], latencies: &Latencies) -> Self {
        assert_eq!(self.spec.kind, Kind::Histogram, "{}", self.spec.name);
        let mut cumulative = 0;
        let buckets = LATENCY_BUCKETS_US.iter().zip(&latencies.buckets).map(|(bound_us, count)| {
            cumulative += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(seconds(*bound_us));
            bucket.set_cumulative_count(cumulative);
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        // The encoder adds the open bucket from the count.
        histogram.set_sample_count(latencies.count());
        histogram.set_sample_sum(seconds(latencies.sum_us));
        let mut row = self.row(labels);
        row.set_histogram(histogram);
        self.rows.push(row);
        self
    }

    /// Adds the rows that `add` makes of each item.
    pub(super) fn each<T>(self, items: impl IntoIterator<Item = T>, add: impl Fn(Self, T) -> Self) -> Self {
        items.into_iter().fold(self, add)
    }

    pub(super) fn done(self) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.spec.name.to_owned());
        family.set_help(self.spec.help.to_owned());
        family.set_field_type(match self.spec.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram => MetricType::HISTOGRAM,
        });
        family.set_metric(self.rows);
        family
    }

    fn row(&self, values: &[&str]) -> Metric {
        assert_eq!(self.spec.labels.len(), values.len(), "{}", self.spec.name);
        let pair = |(name, value): (&&str, &&str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        Metric::from_label(self.spec.labels.iter().zip(values).map(pair).collect())
    }
}

#[allow(clippy::cast_precision_loss)] // The format has floats only; exact up to 2^53.
pub(super) fn float(value: u64) -> f64 {
    value as f64
}

/// Microseconds as seconds.
pub(super) fn seconds(us: u64) -> f64 {
    float(us) / 1e6
}

/// The same, of what may be below zero.
#[allow(clippy::cast_precision_loss)] // Exact up to 285 years.
pub(super) fn signed_seconds(us: i64) -> f64 {
    us as f64 / 1e6
}

pub(super) fn flag(holds: bool) -> f64 {
    if holds { 1.0 } else { 0.0 }
}
