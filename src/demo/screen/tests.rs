//! Alignment, and what is written when.

use super::*;

fn row(datacenter: &str, logical: f64, wire: Option<f64>, p50_ms: Option<u64>, route: &str) -> DcRow {
    let delivery_p50 = p50_ms.map(Duration::from_millis);
    DcRow {
        datacenter: datacenter.into(),
        logical_bytes_per_s: logical,
        wire_bytes_per_s: wire,
        delivery_p50,
        delivery_p99: delivery_p50.map(|p| p * 2),
        route: route.into(),
    }
}

fn snapshot(elapsed_ms: u64) -> Snapshot {
    Snapshot {
        elapsed: Duration::from_millis(elapsed_ms),
        duration: Duration::from_secs(30),
        phase: "quiet".into(),
        messages: 1_234,
        delivered: 1_230,
        faults: 0,
        rows: vec![
            row("first", 12_500_000.0, None, Some(1), "direct"),
            row("second", 12_500_000.0, Some(2_600_000.0), Some(41), "second-p1"),
            row("third", 0.0, Some(0.0), None, "third-p2"),
        ],
    }
}

#[test]
fn the_table_is_this() {
    let expected = [
        "datacenter     logical MB/s wire MB/s saved %  p50 ms  p99 ms  route        ",
        "first                 12.50         -       -     1.0     2.0  direct       ",
        "second                12.50      2.60    79.2    41.0    82.0  second-p1    ",
        "third                  0.00      0.00       -       -       -  third-p2     ",
    ];
    assert_eq!(table(&snapshot(0).rows), expected.map(|line| format!("{line:<COLUMNS$}")));
}

#[test]
fn all_lines_are_equally_wide_whatever_is_in_them() {
    let mut snapshot = snapshot(400_000_000);
    snapshot.phase = "a very long phase that does not fit on the line, ".repeat(4);
    snapshot.rows.extend([
        row(
            "a-datacenter-with-a-very-long-name",
            1e30,
            Some(1e33),
            Some(u64::MAX),
            "proxy of an even longer name",
        ),
        row("日本\x1b[2J\n", f64::NAN, Some(f64::INFINITY), Some(0), "ß\t→"),
        row("", 1.0, Some(1e12), Some(1), ""),
    ]);
    let mut lines = table(&snapshot.rows);
    lines.extend(progress(&snapshot));
    for line in lines {
        assert_eq!(line.len(), COLUMNS, "{line:?}");
        assert!(line.chars().all(|c| c == ' ' || c.is_ascii_graphic()), "{line:?}");
    }
}

#[test]
fn a_terminal_gets_frames_over_each_other() {
    let mut screen = Screen::new(true);
    let first = screen.draw(&snapshot(0)).unwrap();
    assert!(!first.contains("A\x1b") && first.starts_with("\x1b[?7l"), "nothing to go up over");
    assert_eq!(first.matches('\n').count(), 6);
    let second = screen.draw(&snapshot(100)).unwrap();
    assert!(second.starts_with("\x1b[6A\x1b[?7l"));
    assert!(second.ends_with("\x1b[?7h"));
}

#[test]
fn elsewhere_there_is_a_plain_line_a_second() {
    let mut screen = Screen::new(false);
    let drawn: Vec<String> = (0..30).filter_map(|n| screen.draw(&snapshot(100 * n))).collect();
    assert_eq!(drawn.len(), 3);
    assert!(drawn.iter().all(|line| !line.contains('\x1b') && line.matches('\n').count() == 1));
    assert_eq!(
        drawn[1],
        " 1 of 30 s     1230 of    1234 delivered  0 faulty   2.60 MB/s WAN   79.2 % saved  p99  82.0 ms  quiet\n"
    );
}

#[test]
fn a_plain_line_fits_whatever_is_in_it() {
    let mut long = snapshot(3_600_000);
    long.duration = Duration::from_secs(3600);
    (long.messages, long.delivered) = (98_765_432, 98_765_431);
    long.phase = "a-proxy-of-a-long-name was killed\n ü".repeat(2);
    let line = plain_line(&long);
    assert_eq!(line.len(), 120, "{line}");
    assert!(line.ends_with('~') && line.is_ascii() && !line.contains('\n'), "{line}");
    long.rows.clear();
    long.phase = String::new();
    assert!(
        plain_line(&long).ends_with(" 0.00 MB/s WAN      - % saved  p99     - ms"),
        "{}",
        plain_line(&long)
    );
}

#[test]
fn progress_is_full_at_the_end_and_never_more() {
    let bar = |ms| progress(&snapshot(ms))[0].trim_end().to_owned();
    assert_eq!(bar(0), "[--------------------] 0 of 30 s  quiet");
    assert_eq!(bar(15_900), "[##########----------] 15 of 30 s  quiet");
    assert_eq!(bar(60_000), "[####################] 60 of 30 s  quiet");
    assert_eq!(progress(&snapshot(0))[1].trim_end(), "messages: 1234 sent, 1230 delivered, 0 faulty");
    let mut none = snapshot(1);
    none.duration = Duration::ZERO;
    assert!(progress(&none)[0].starts_with("[####################]"));
}
