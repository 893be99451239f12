//! Turns samples into a page that says in words where the time goes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::measure::micros;
use crate::process::Usage;

/// Rows of each table.
const THREADS: usize = 8;
const OBJECTS: usize = 4;
const WORK: usize = 14;
const SYMBOLS: usize = 15;
/// Letters of a symbol's name.
const LETTERS: usize = 110;

/// What all of it cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) used: Usage,
    pub(super) lasts: Duration,
    /// What is counted, in the singular, and how many there were; nothing with 0.
    pub(super) each: &'static str,
    pub(super) units: u64,
    /// Samples a second of each running thread.
    pub(super) rate: u32,
}

/// Samples of one symbol in one thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    samples: u64,
    thread: String,
    object: String,
    symbol: String,
}

/// What threads are for, by the beginning of their names.
const THREAD_KINDS: &[(&str, &str)] = &[
    ("actix-server ac", "accepting connections"),
    ("actix-", "edge workers: HTTP, sockets, pushes"),
    ("tokio-", "tokio's workers: pusher, presence, openings"),
    ("rdk:main", "librdkafka, main threads"),
    ("rdk:", "librdkafka, a thread for each broker"),
    ("log producer", "the log's producers: delivery reports"),
    ("sumu", "the main thread"),
];

/// What the kernel does, by how words in its functions' names begin; the first that is found counts.
const KERNEL: &[(&str, &[&str])] = &[
    (
        "kernel: epoll and event descriptors",
        &["ep_", "epoll", "eventfd", "eventpoll"],
    ),
    (
        "kernel: waking and switching threads, timers",
        &[
            "futex",
            "hrtimer",
            "sched",
            "wake",
            "switch",
            "timer",
            "idle",
            "select_task",
            "dequeue_",
            "enqueue_",
        ],
    ),
    (
        "kernel: TCP over loopback, both ends",
        &[
            "tcp",
            "inet",
            "ip_",
            "skb",
            "sock",
            "net_",
            "dev_",
            "loopback",
            "xmit",
            "softirq",
            "nf_",
            "napi",
            "backlog",
            "release_sock",
            "sk_",
            "ipv4",
        ],
    ),
    ("kernel: files", &["ext4", "xfs", "jbd2", "filemap"]),
    (
        "kernel: copying",
        &["copy", "memcpy", "memset", "clear_page"],
    ),
    (
        "kernel: memory",
        &[
            "page", "alloc", "kmalloc", "kmem", "kfree", "slab", "mem", "fault",
        ],
    ),
];

/// What a crate is for, by its name in a symbol.
const CRATES: &[(&str, &str)] = &[
    ("ingest", "edge: sumu's own code"),
    ("actix_", "edge: actix, HTTP and frames"),
    ("pusher", "pusher: sumu's own code"),
    ("eventlog", "the log: sumu's own code and rdkafka's"),
    ("rdkafka", "the log: sumu's own code and rdkafka's"),
    ("presence", "presence"),
    ("store", "the store"),
    ("broker", "the embedded broker"),
    ("schemas", "encoding and decoding"),
    ("serde", "encoding and decoding"),
    ("postcard", "encoding and decoding"),
    ("reqwest", "HTTP from pusher to edge"),
    ("hyper", "HTTP from pusher to edge"),
    ("tokio", "tokio: tasks, timers, polling"),
    ("mio", "tokio: tasks, timers, polling"),
    ("tracing", "traces and metrics"),
    ("opentelemetry", "traces and metrics"),
];

/// Reads what `perf report` printed: samples, thread, object and symbol, with tabs between.
pub(super) fn read(report: &str) -> Vec<Row> {
    let lines = report.lines().filter(|line| !line.starts_with('#'));
    let row = |line: &str| {
        let mut fields = line.splitn(4, '\t').map(str::trim);
        Some(Row {
            samples: fields.next()?.parse().ok()?,
            thread: fields.next()?.to_owned(),
            object: fields.next()?.to_owned(),
            symbol: fields.next()?.to_owned(),
        })
    };
    lines.filter_map(row).collect()
}

/// A page of Markdown.
pub(super) fn write(title: &str, cost: &Cost, rows: &[Row]) -> String {
    let all: u64 = rows.iter().map(|row| row.samples).sum();
    let core = |time: Duration| time.as_secs_f64() / cost.lasts.as_secs_f64() * 100.0;
    let (user, system) = (cost.used.user, cost.used.system);
    let mut text = format!(
        "# Where the time goes: {title}\n\n`sumu dev` took {:.1} % of a core, {:.1} % in the kernel",
        core(user + system),
        core(system),
    );
    // Writing to a String cannot fail.
    let _infallible = match cost.units {
        0 => writeln!(text, "."),
        _ => writeln!(text, ": {:.1} µs for each {}.", each(cost), cost.each),
    };
    let _infallible = writeln!(
        text,
        "{all} samples in {} s, {} a second of each running thread, by the CPU's clock: what the kernel does while it \
         takes no interrupts falls to where it takes them again, such as `finish_task_switch`.",
        cost.lasts.as_secs(),
        cost.rate
    );
    let thread = |row: &Row| thread(&row.thread);
    let object = |row: &Row| object(&row.object).to_owned();
    let work = |row: &Row| work(row).to_owned();
    table(
        &mut text,
        "kind of thread",
        cost,
        THREADS,
        &sums(rows, thread),
    );
    table(&mut text, "object", cost, OBJECTS, &sums(rows, object));
    table(
        &mut text,
        "work, by the names of functions",
        cost,
        WORK,
        &sums(rows, work),
    );
    table(&mut text, "function", cost, SYMBOLS, &sums(rows, symbol));
    text
}

fn each(cost: &Cost) -> f64 {
    micros(cost.used.cpu()) / cost.units.max(1) as f64
}

/// Samples by that name, the most first.
fn sums(rows: &[Row], name: impl Fn(&Row) -> String) -> Vec<(String, u64)> {
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for row in rows {
        *sums.entry(name(row)).or_default() += row.samples;
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(_, samples)| std::cmp::Reverse(*samples));
    sums
}

fn table(text: &mut String, what: &str, cost: &Cost, most: usize, sums: &[(String, u64)]) {
    let all: u64 = sums.iter().map(|(_, samples)| samples).sum();
    let (head, whole, digits) = match cost.units {
        0 => (
            "% of a core".to_owned(),
            cost.used.cpu().as_secs_f64() / cost.lasts.as_secs_f64() * 100.0,
            2,
        ),
        _ => (format!("µs each {}", cost.each), each(cost), 1),
    };
    let _infallible = writeln!(text, "\n| {what} | share | {head} |\n|---|---|---|");
    for (name, samples) in sums.iter().take(most) {
        let share = *samples as f64 / all.max(1) as f64;
        let _infallible = writeln!(
            text,
            "| {} | {:.1} % | {:.digits$} |",
            name.replace('|', "\\|"),
            share * 100.0,
            share * whole
        );
    }
}

fn thread(name: &str) -> String {
    let known = THREAD_KINDS
        .iter()
        .find(|(start, _)| name.starts_with(start));
    known.map_or_else(|| name.to_owned(), |(_, words)| (*words).to_owned())
}

fn object(name: &str) -> &str {
    match name {
        "[kernel.kallsyms]" | "[kernel]" => "kernel",
        name if name.starts_with("sumu") => "sumu, librdkafka in it",
        name if name.starts_with("libc") => "libc",
        _ => "other libraries",
    }
}

/// A function's name, in code; `<` and long type parameters are shortened.
fn symbol(row: &Row) -> String {
    let name: String = bare(&row.symbol).chars().take(LETTERS).collect();
    format!(
        "`{name}` ({})",
        object(&row.object).split(',').next().unwrap_or_default()
    )
}

/// Without `[k]` and `[.]`.
fn bare(symbol: &str) -> &str {
    symbol.split_once("] ").map_or(symbol, |(_, name)| name)
}

fn work(row: &Row) -> &'static str {
    let symbol = bare(&row.symbol);
    match object(&row.object) {
        "kernel" => {
            let named = |(_, parts): &&(&str, &[&str])| parts.iter().any(|p| has_word(symbol, p));
            let found = KERNEL.iter().find(named);
            found.map_or(
                "kernel: calls' entry and exit, and the rest",
                |(words, _)| words,
            )
        }
        "libc" | "other libraries" => {
            let allocates = ["alloc", "free", "_int_", "unlink_chunk", "consolidate"];
            if allocates.iter().any(|part| symbol.contains(part)) {
                "allocating"
            } else {
                "libc: copying memory, calls, and the rest"
            }
        }
        _ if ["rd_", "rdk", "mtx_", "cnd_", "thrd_", "rwlock_"]
            .iter()
            .any(|p| symbol.starts_with(p)) =>
        {
            "librdkafka"
        }
        _ => of_crate(symbol).unwrap_or("the rest of sumu: std and small crates"),
    }
}

/// Whether a word of a name that is joined by `_` begins so.
fn has_word(name: &str, start: &str) -> bool {
    let mut found = name.match_indices(start).map(|(at, _)| at);
    found.any(|at| at == 0 || name.as_bytes().get(at - 1) == Some(&b'_'))
}

/// By the first crate named in a symbol that is known.
fn of_crate(symbol: &str) -> Option<&'static str> {
    let starts = |at: usize, name: &str| {
        let before = symbol
            .get(..at)
            .and_then(|before| before.chars().next_back());
        let apart = before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':');
        let path = symbol.get(at + name.len()..).unwrap_or_default();
        let word = path.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
        apart && word.starts_with("::")
    };
    let places = CRATES.iter().filter_map(|(name, words)| {
        let mut found = symbol.match_indices(name).map(|(at, _)| at);
        Some((found.find(|at| starts(*at, name))?, *words))
    });
    Some(places.min_by_key(|(at, _)| *at)?.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "# comm\n\n\
        60\tactix-server wo\t[kernel.kallsyms]\t[k] tcp_sendmsg_locked\n\
        20\ttokio-rt-worker\tsumu\t[.] <tokio::task::Core<pusher::pipeline::run> as core::future::Future>::poll\n\
        10\trdk:broker-1\tsumu\t[.] rd_kafka_toppar_op\n\
        10\tactix-server wo\tlibc.so.6\t[.] malloc\n";

    #[test]
    fn time_is_told_by_thread_object_work_and_function() {
        let rows = read(REPORT);
        assert_eq!(rows.len(), 4);
        let cost = Cost {
            used: Usage {
                user: Duration::from_millis(400),
                system: Duration::from_millis(600),
                resident: 0,
            },
            lasts: Duration::from_secs(2),
            each: "delivery",
            units: 10_000,
            rate: 499,
        };
        let page = write("a load", &cost, &rows);
        for line in [
            "`sumu dev` took 50.0 % of a core, 30.0 % in the kernel: 100.0 µs for each delivery.",
            "| edge workers: HTTP, sockets, pushes | 70.0 % | 70.0 |",
            "| sumu, librdkafka in it | 30.0 % | 30.0 |",
            "| kernel: TCP over loopback, both ends | 60.0 % | 60.0 |",
            "| tokio: tasks, timers, polling | 20.0 % | 20.0 |",
            "| librdkafka | 10.0 % | 10.0 |",
            "| allocating | 10.0 % | 10.0 |",
            "| `tcp_sendmsg_locked` (kernel) | 60.0 % | 60.0 |",
        ] {
            assert!(page.lines().any(|l| l == line), "{line}\n{page}");
        }
        let idle = write("nothing", &Cost { units: 0, ..cost }, &rows);
        assert!(idle.contains("| kernel | 60.0 % | 30.00 |"), "{idle}");
    }

    #[test]
    fn a_word_of_a_kernel_function_is_whole_at_its_beginning() {
        assert!(has_word("__tcp_transmit_skb", "tcp") && has_word("sk_wait", "sk_"));
        assert!(!has_word("task_tick", "sk_") && !has_word("skip_it", "ip_"));
    }

    #[test]
    fn a_crate_is_known_by_a_whole_word_of_a_path() {
        assert_eq!(of_crate("core::store::load"), None);
        assert_eq!(
            of_crate("<store::embedded::Store as X>::put"),
            Some("the store")
        );
        assert_eq!(of_crate("restore::it"), None);
        assert_eq!(
            of_crate("tokio_util::time::poll"),
            Some("tokio: tasks, timers, polling")
        );
    }
}
