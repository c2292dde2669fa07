//! Links in Markdown files: to files of the repository, and to headings.

use super::Tree;
use super::modules::normal;

/// The lines of a document that are text: not inside a fence, inline code blanked.
fn prose(text: &str) -> Vec<(usize, String)> {
    let (mut lines, mut fenced) = (Vec::new(), false);
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            let outside =
                line.split('`').enumerate().map(|(part, text)| if part % 2 == 0 { text } else { "_" });
            lines.push((index + 1, outside.collect()));
        }
    }
    lines
}

/// The targets of `[text](target)` with their lines.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (line, prose) in prose(text) {
        for (at, _) in prose.match_indices("](") {
            let rest = &prose[at + 2..];
            if let Some(end) = rest.find(')') {
                let target = rest[..end].split_whitespace().next().unwrap_or("");
                found.push((line, target.trim_matches(['<', '>']).to_owned()));
            }
        }
    }
    found
}

/// The anchors of a document's headings, as code hosts make them.
fn anchors(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut anchors: Vec<String> = Vec::new();
    for line in text.lines() {
        fenced ^= line.trim_start().starts_with("```");
        let heading = line.trim_start_matches('#');
        if fenced || heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let legal = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
        let slug: String = heading.trim().to_lowercase().chars().filter(legal).collect();
        let slug = slug.replace(' ', "-");
        let again = anchors.iter().filter(|anchor| **anchor == slug).count();
        anchors.push(if again == 0 { slug } else { format!("{slug}-{again}") });
    }
    anchors
}

/// Links that lead nowhere. `exists` is asked for paths from the root.
pub(crate) fn broken_links(documents: &Tree, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, text) in documents {
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        for (line, target) in links(text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let to = if file.is_empty() { path.clone() } else { normal(&format!("{directory}/{file}")) };
            let known = documents.get(&to);
            if known.is_none() && !exists(&to) {
                problems.push(format!("{path}:{line}: `{target}` is no file of the repository"));
            } else if let Some(text) = known
                && !anchor.is_empty()
                && !anchors(text).iter().any(|known| known == anchor)
            {
                problems.push(format!("{path}:{line}: `{target}` is no heading"));
            }
        }
    }
    problems
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let text = "# One: two\n[a](b.md) [c](../src/x.rs) [d](#one-two) [e](https://x/y) `[f](gone)`\n```\n[g](gone)\n# Not\n```\n";
    let good = super::planted(&[("docs/a.md", text), ("docs/b.md", "## Here\n## Here\n")]);
    let exists = |path: &str| path == "src/x.rs";
    assert_eq!(broken_links(&good, exists), Vec::<String>::new());
    let text = "[a](gone.md)\n[b](b.md#here-1) [c](b.md#there) [d](#not)\n[e](/src/x.rs)\n[f](src/x.rs)";
    let bad = super::planted(&[("docs/a.md", text), ("docs/b.md", "## Here\n## Here\n")]);
    let found = broken_links(&bad, exists);
    assert_eq!(found.len(), 5, "{found:?}");
    assert!(found[0].starts_with("docs/a.md:1: `gone.md`"));
}
