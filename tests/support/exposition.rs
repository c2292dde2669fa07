//! A strict reader of the Prometheus text format 0.0.4, for tests: whatever it does not expect is an error.

use std::collections::BTreeMap;

/// One family: its type, its help and its samples.
#[derive(Debug, Default)]
pub(crate) struct Family {
    /// `counter`, `gauge` or `histogram`.
    pub(crate) kind: String,
    /// Unescaped.
    pub(crate) help: String,
    /// (sample name, labels) → value.
    pub(crate) samples: BTreeMap<(String, Labels), f64>,
}

/// Label name → unescaped value.
pub(crate) type Labels = BTreeMap<String, String>;

/// All families by name.
pub(crate) fn parse(text: &str) -> Result<BTreeMap<String, Family>, String> {
    if !text.ends_with('\n') {
        return Err("the last line does not end".to_owned());
    }
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut help: Option<(String, String)> = None;
    let mut current: Option<String> = None;
    for line in text.lines() {
        let fail = |why: &str| Err(format!("{why}: {line}"));
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let Some((name, words)) = rest.split_once(' ') else { return fail("HELP without words") };
            help = Some((name.to_owned(), words.replace("\\n", "\n").replace("\\\\", "\\")));
            current = None;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let Some((name, kind)) = rest.split_once(' ') else { return fail("TYPE without a type") };
            let Some((helped, words)) = help.take() else { return fail("TYPE without HELP before") };
            if helped != name || !["counter", "gauge", "histogram"].contains(&kind) || !is_name(name) {
                return fail("wrong TYPE");
            }
            let family = Family { kind: kind.to_owned(), help: words, samples: BTreeMap::new() };
            if families.insert(name.to_owned(), family).is_some() {
                return fail("family given twice");
            }
            current = Some(name.to_owned());
        } else {
            let Some(family_name) = &current else { return fail("sample outside of a family") };
            let (name, labels, value) = sample(line)?;
            let family = families.get_mut(family_name).ok_or("no family")?;
            let suffix = name.strip_prefix(family_name.as_str()).unwrap_or("?");
            let legal: &[&str] =
                if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            if !legal.contains(&suffix) || (suffix == "_bucket") != labels.contains_key("le") {
                return fail("sample of another family");
            }
            if family.samples.insert((name, labels), value).is_some() {
                return fail("sample given twice");
            }
        }
    }
    for (name, family) in &families {
        check(name, family)?;
    }
    Ok(families)
}

fn sample(line: &str) -> Result<(String, Labels, f64), String> {
    let fail = |why: &str| format!("{why}: {line}");
    let end = line.find(['{', ' ']).ok_or_else(|| fail("no value"))?;
    let (name, mut rest) = line.split_at(end);
    if !is_name(name) {
        return Err(fail("illegal name"));
    }
    let mut labels = Labels::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, after) = rest.split_once("=\"").ok_or_else(|| fail("label without value"))?;
            let (value, after) = quoted(after).ok_or_else(|| fail("open or wrongly escaped label value"))?;
            if !is_name(label) || label.contains(':') || labels.insert(label.to_owned(), value).is_some() {
                return Err(fail("illegal label"));
            }
            match (after.strip_prefix(','), after.strip_prefix('}')) {
                (Some(more), _) => rest = more,
                (_, Some(end)) => {
                    rest = end;
                    break;
                }
                _ => return Err(fail("labels do not end")),
            }
        }
    }
    let value = rest.strip_prefix(' ').ok_or_else(|| fail("no space before the value"))?;
    let value = match value {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        value => value.parse().map_err(|_| fail("not a number"))?,
    };
    Ok((name.to_owned(), labels, value))
}

/// The unescaped text up to the closing quote, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                '"' => '"',
                '\\' => '\\',
                _ => return None,
            }),
            c => value.push(c),
        }
    }
    None
}

fn is_name(name: &str) -> bool {
    let legal = |(at, c): (usize, char)| {
        c.is_ascii_alphabetic() || "_:".contains(c) || (at > 0 && c.is_ascii_digit())
    };
    !name.is_empty() && name.char_indices().all(legal)
}

fn check(name: &str, family: &Family) -> Result<(), String> {
    if family.help.trim().is_empty() || family.samples.is_empty() {
        return Err(format!("{name} has no help or no samples"));
    }
    if (family.kind == "counter") != name.ends_with("_total") {
        return Err(format!("{name} is a {} by a wrong name", family.kind));
    }
    if family.kind == "counter" && family.samples.values().any(|value| !(value.is_finite() && *value >= 0.0))
    {
        return Err(format!("{name} counts backwards"));
    }
    if family.kind != "histogram" {
        return Ok(());
    }
    let mut series: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
    for ((sample, labels), value) in &family.samples {
        if !sample.ends_with("_bucket") {
            continue;
        }
        let mut labels = labels.clone();
        let bound = labels.remove("le").ok_or("bucket without bound")?;
        let bound =
            if bound == "+Inf" { f64::INFINITY } else { bound.parse().map_err(|_| "bound is no number")? };
        series.entry(labels).or_default().push((bound, *value));
    }
    for (labels, mut buckets) in series {
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let rising = buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
        let last = buckets.last().copied().unwrap_or_default();
        let of = |suffix: &str| family.samples.get(&(format!("{name}{suffix}"), labels.clone())).copied();
        if !rising || last.0 != f64::INFINITY || of("_count") != Some(last.1) || of("_sum").is_none() {
            return Err(format!("{name}{labels:?} is no histogram"));
        }
    }
    Ok(())
}
