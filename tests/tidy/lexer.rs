//! Rust source as tokens: just enough to see paths, `use` trees and `mod` lines, and to overlook comments.

/// A token and the line it begins on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) line: usize,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A name or keyword.
    Name(String),
    /// `::`
    Path,
    /// The text of a string literal.
    Text(String),
    /// Any other character that is no space.
    Sign(char),
}

/// The tokens of a source text. Comments, characters and numbers leave none.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    while at < chars.len() {
        let (c, next) = (chars[at], chars.get(at + 1).copied().unwrap_or('\0'));
        let begin = line;
        let end = match c {
            '/' if next == '/' => end_of(&chars, at, |rest| rest[0] == '\n'),
            '/' if next == '*' => end_of_block_comment(&chars, at),
            '"' => {
                let end = end_of_string(&chars, at);
                tokens.push(Token {
                    kind: Kind::Text(chars[at + 1..end.max(at + 2) - 1].iter().collect()),
                    line: begin,
                });
                end
            }
            'r' | 'b' if raw_string(&chars, at).is_some() => {
                let (from, hashes) = raw_string(&chars, at).unwrap_or((at, 0));
                let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                let to = end_of(&chars, from, |rest| rest.starts_with(&close));
                tokens.push(Token { kind: Kind::Text(chars[from..to].iter().collect()), line: begin });
                (to + close.len()).min(chars.len())
            }
            '\'' => end_of_quote(&chars, at),
            c if c.is_ascii_digit() => end_of(&chars, at, |rest| !is_name(rest[0])),
            c if is_name(c) => {
                let end = end_of(&chars, at, |rest| !is_name(rest[0]));
                let name: String = chars[at..end].iter().collect();
                // A raw name: `r#type`.
                if name == "r" && chars.get(end) == Some(&'#') {
                    at = end + 1;
                    continue;
                }
                tokens.push(Token { kind: Kind::Name(name), line: begin });
                end
            }
            ':' if next == ':' => {
                tokens.push(Token { kind: Kind::Path, line: begin });
                at + 2
            }
            c => {
                if !c.is_whitespace() {
                    tokens.push(Token { kind: Kind::Sign(c), line: begin });
                }
                at + 1
            }
        };
        line += chars[at..end].iter().filter(|c| **c == '\n').count();
        at = end;
    }
    tokens
}

fn end_of(chars: &[char], from: usize, stop: impl Fn(&[char]) -> bool) -> usize {
    (from..chars.len()).find(|at| stop(&chars[*at..])).unwrap_or(chars.len())
}

fn end_of_block_comment(chars: &[char], from: usize) -> usize {
    let (mut at, mut depth) = (from, 0);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (at, depth) = (at + 2, depth + 1),
            ('*', Some('/')) => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn end_of_string(chars: &[char], from: usize) -> usize {
    let mut at = from + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// Where the text of a raw string begins, and the number of its hashes. Plain byte strings begin at their quote.
fn raw_string(chars: &[char], from: usize) -> Option<(usize, usize)> {
    let mut at = from + usize::from(chars[from] == 'b');
    if chars.get(at) != Some(&'r') {
        return None;
    }
    at += 1;
    let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
    (chars.get(at + hashes) == Some(&'"')).then_some((at + hashes + 1, hashes))
}

/// A character literal or a lifetime.
fn end_of_quote(chars: &[char], from: usize) -> usize {
    match (chars.get(from + 1), chars.get(from + 2)) {
        (Some('\\'), _) => end_of(chars, from + 3, |rest| rest[0] == '\'') + 1,
        (Some(_), Some('\'')) => from + 3,
        _ => from + 1,
    }
    .min(chars.len())
}

#[test]
fn comments_and_literals_hide_nothing_and_show_nothing() {
    let source = r##"
        // tokio::a
        /* tokio::b /* nested */ tokio::c */
        let s = "tokio::d \" tokio::e"; let r = r#"tokio::f " "#; let c = '"'; let b = b"x";
        fn f<'a>(x: &'a str) { std::g(1_000u64, '\'', 'x') }
        r#type::h
    "##;
    let names: Vec<String> = tokens(source)
        .into_iter()
        .filter_map(|token| match token.kind {
            Kind::Name(name) => Some(name),
            _ => None,
        })
        .collect();
    assert_eq!(names.join(" "), "let s let r let c let b b fn f a x a str std g type h");
    assert_eq!(tokens("a\n\nb\n")[1].line, 3);
}
