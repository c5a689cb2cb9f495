//! A minute of load: is nothing missed, and does the ledger agree with the allocators' own books?
//!
//! redis, with jemalloc, is run from its first allocation; two workers of nginx and a program that asks
//! glibc for its books are attached to. All at once: a minute is long.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::processes::{DEADLINE, Target, send_signal, wait_for, wait_until};
use crate::programs::Recipe;
use crate::report::Report;
use crate::trace::Trace;

const LOAD: Duration = Duration::from_secs(60);

/// A child that is killed with its test.
struct Load(Child);

impl Load {
    fn start(command: &mut Command) -> Self {
        let silent = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(silent.spawn().unwrap_or_else(|error| {
            panic!("{command:?}: {error} (`cargo xtask test` installs it)")
        }))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

fn shown(of: &str, report: &Report) -> String {
    let number = |of: &str| report.number(of);
    format!(
        "{of}: {} allocations, {} frees, {} matched, {} unknown, {} reappeared, {} blocks of {} bytes \
         outstanding",
        number("/health/allocs"),
        number("/health/frees"),
        number("/health/matched_frees"),
        number("/health/unknown_frees"),
        number("/health/reappeared"),
        number("/totals/outstanding_blocks"),
        number("/totals/outstanding_bytes"),
    )
}

/// At most 1 % apart.
fn assert_agree(what: &str, ours: u64, theirs: u64) {
    println!("{what}: {ours} by leaktrace, {theirs} by the allocator");
    assert!(theirs > 0 && ours.abs_diff(theirs) * 100 <= theirs, "{what}: {ours}, not {theirs}");
}

/// A redis under `leaktrace run`.
struct Redis {
    trace: Trace,
    folder: tempfile::TempDir,
    /// None when it has ended.
    pid: Option<i32>,
}

impl Redis {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        // The one binary, which is a server by its name; the package of that name starts it.
        let binary =
            Command::new("sh").args(["-c", "command -v redis-check-rdb"]).output().unwrap();
        let binary = String::from_utf8(binary.stdout).unwrap();
        std::os::unix::fs::symlink(binary.trim_end(), at("redis-server")).unwrap();
        let (server, socket, pid_file) = (at("redis-server"), at("socket"), at("pid"));
        let mut trace = Trace::start(&[
            "run",
            "--exact",
            "--max-blocks",
            "4000000",
            "-q",
            "-o",
            "report.json",
            "--top",
            "1000",
            "--",
            &server,
            "--port",
            "0",
            "--save",
            "",
            "--unixsocket",
            &socket,
            "--pidfile",
            &pid_file,
            "--logfile",
            &at("log"),
            "--enable-debug-command",
            "yes",
            "--dir",
            &at(""),
        ]);
        let pid = wait_for(DEADLINE, "redis has a pid", || {
            assert!(!trace.has_ended(), "leaktrace run ended");
            fs::read_to_string(&pid_file).ok()?.trim().parse().ok()
        });
        let redis = Self { trace, folder, pid: Some(pid) };
        wait_until(DEADLINE, "redis answers", || redis.ask(&["PING"]).starts_with("PONG"));
        redis
    }

    fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-s").arg(self.folder.path().join("socket"));
        command
    }

    /// The answer to one command.
    fn ask(&self, words: &[&str]) -> String {
        let answer = self.client("redis-cli").args(words).output().unwrap();
        String::from_utf8(answer.stdout).unwrap()
    }

    /// Blocks in use by jemalloc's own books: `nmalloc` less `ndalloc` of all its sizes.
    fn blocks_by_its_books(&self) -> u64 {
        let books = self.ask(&["MEMORY", "MALLOC-STATS"]);
        // Where there are several arenas, those of all come first.
        let total = books.lines().find(|line| line.starts_with("total:"));
        let total = total.unwrap_or_else(|| panic!("no total in {books}"));
        let words: Vec<u64> =
            total.split_whitespace().skip(1).map(|w| w.parse().unwrap()).collect();
        words[1] - words[3]
    }

    /// Ends it, and with it the trace.
    fn end(mut self) -> Report {
        let _gone = self.ask(&["SHUTDOWN", "NOSAVE"]);
        let report = self.trace.report();
        self.pid = None;
        report
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            // SAFETY: kill takes two integers; redis was not waited for, by leaktrace, when the pid
            // was read.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
}

/// An nginx of a master and two workers.
struct Nginx {
    master: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Nginx {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|what| format!("{what}_temp_path {path}/{what};\n"))
            .collect();
        let conf = format!(
            "daemon off; user root; worker_processes 2; pid {path}/pid;
            events {{}}
            http {{
                access_log off; log_not_found off; gzip on; gzip_min_length 1; gzip_types *;
                {temporary}
                server {{
                    listen 127.0.0.1:{port};
                    location / {{ root {path}; }}
                    location /again {{ proxy_pass http://127.0.0.1:{port}/; }}
                }}
            }}"
        );
        fs::write(folder.path().join("index.html"), "leaktrace ".repeat(1000)).unwrap();
        fs::write(folder.path().join("nginx.conf"), conf).unwrap();
        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(path).args(["-e", "log", "-c", "nginx.conf"]).current_dir(path);
        let master = nginx.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let master =
            master.unwrap_or_else(|error| panic!("nginx: {error} (`cargo xtask test` gets it)"));
        let nginx = Self { master, port, _folder: folder };
        wait_until(DEADLINE, "nginx has its workers", || nginx.workers().len() == 2);
        wait_until(DEADLINE, "nginx answers", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        nginx
    }

    fn workers(&self) -> Vec<u32> {
        let pid = self.master.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        children.unwrap().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    /// A load on all it serves, for as long as asked.
    fn load(&self, script: &Path) -> Command {
        let request = "local paths = {'/', '/again', '/missing'}\nlocal i = 0\n\
            request = function() i = i + 1\n\
            return wrk.format('GET', paths[i % 3 + 1], {['Accept-Encoding'] = 'gzip'}) end\n";
        fs::write(script, request).unwrap();
        let mut wrk = Command::new("wrk");
        wrk.args(["-t1", "-c16", &format!("-d{}s", LOAD.as_secs())]).arg("-s").arg(script);
        wrk.arg(format!("http://127.0.0.1:{}/", self.port));
        wrk
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        send_signal(&self.master, libc::SIGTERM); // it takes its workers with it
        let _status = self.master.wait();
    }
}

/// How many blocks there can be in glibc's heap: none takes less than 32 bytes.
fn most_blocks(pid: u32) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let heap = maps.lines().find(|line| line.ends_with("[heap]")).unwrap();
    let (start, end) = heap.split_once(' ').unwrap().0.split_once('-').unwrap();
    let address = |hex| u64::from_str_radix(hex, 16).unwrap();
    (address(end) - address(start)) / 32
}

const ACCOUNTS: Recipe = Recipe {
    name: "accounts",
    compiler: "gcc",
    flags: &["-O1", "-g", "-fomit-frame-pointer", "-fno-builtin", "-w", "-pthread"],
    sources: &["allocators/accounts.c"],
};

#[test]
fn a_minute_of_load_misses_no_free_and_agrees_with_the_allocators_books() {
    let redis = Redis::start();
    // Enough that what jemalloc keeps for each thread is less than 1 %.
    redis.ask(&["DEBUG", "POPULATE", "100000", "key", "100"]);
    let nginx = Nginx::start();
    let there: u64 = nginx.workers().into_iter().map(most_blocks).sum();
    let mut nginx_trace = Trace::attach_pids(&nginx.workers(), &[]);
    let mut command = Command::new(ACCOUNTS.made());
    // What glibc keeps for each thread counts as in use.
    command.env("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0");
    let mut accounts = Target::spawn(&mut command);
    let mut accounts_trace = Trace::attach(&accounts, &[]);

    let begun = Instant::now();
    accounts.work();
    let script = tempfile::NamedTempFile::new().unwrap();
    let mut wrk = Load::start(&mut nginx.load(script.path()));
    let tests = "set,get,incr,lpush,rpush,lpop,rpop,sadd,hset,spop,zadd,zpopmin,lrange_100,mset";
    let benchmark =
        Load::start(redis.client("redis-benchmark").args([
            "-l", "-q", "-n", "20000", "-r", "100000", "-d", "200", "-P", "16", "-t", tests,
        ]));
    wait_until(LOAD + DEADLINE, "the load ends", || wrk.0.try_wait().unwrap().is_some());
    drop(benchmark);
    assert!(begun.elapsed() >= LOAD);

    check_accounts(&mut accounts, &mut accounts_trace);
    let report = nginx_trace.interrupt();
    println!("{}", shown("nginx, two workers", &report));
    report.assert_complete();
    let unknown = report.number("/health/unknown_frees");
    assert!(unknown <= there, "{unknown} unknown frees, where {there} blocks were at most");
    check_load(&report, 100_000);
    let held = report.totals().blocks;
    assert!(held <= 2000, "{held} blocks outstanding after the last request");
    drop(nginx);

    check_redis(redis);
}

/// Under load, and nothing handed out twice.
fn check_load(report: &Report, least: u64) {
    let frees = report.number("/health/frees");
    assert!(frees >= least, "only {frees} frees: that is no load");
    assert_eq!(report.number("/health/reappeared"), 0);
}

fn check_accounts(accounts: &mut Target, trace: &mut Trace) {
    let books = accounts.work();
    let report = trace.interrupt();
    println!("{}", shown("accounts", &report));
    report.assert_complete();
    report.assert_every_free_matched();
    check_load(&report, 100_000);
    let totals = report.totals();
    // Eight bytes of each chunk are glibc's.
    let in_use = books.get("in_use") + books.get("mapped");
    assert_agree("bytes in glibc's chunks", totals.bytes + 8 * totals.blocks, in_use);
    assert!(accounts.end().success());
}

fn check_redis(redis: Redis) {
    wait_until(DEADLINE, "redis has no other client", || {
        redis.ask(&["INFO", "clients"]).contains("connected_clients:1\r")
    });
    wait_until(DEADLINE, "redis has freed what it frees later", || {
        redis.ask(&["INFO", "memory"]).contains("lazyfree_pending_objects:0\r")
    });
    let (books, report) = (redis.blocks_by_its_books(), redis.trace.report_now());
    println!("{}", shown("redis, loaded", &report));
    assert_agree("blocks in jemalloc's books", report.totals().blocks, books);
    let loaded = report.totals().blocks;

    redis.ask(&["FLUSHALL", "SYNC"]);
    let (books, report) = (redis.blocks_by_its_books(), redis.trace.report_now());
    let left = report.totals().blocks;
    println!("blocks after FLUSHALL: {left} by leaktrace, {books} by jemalloc");
    // What jemalloc keeps for each thread is in its books, and little beside what there was.
    assert!(left.abs_diff(books) * 100 <= loaded, "{left} blocks are left, not {books}");

    let report = redis.end();
    println!("{}", shown("redis, ended", &report));
    report.assert_complete();
    // FLUSHALL is 300,000 of them.
    check_load(&report, 600_000);
    let (frees, matched) = (report.number("/health/frees"), report.number("/health/matched_frees"));
    assert!(matched * 1000 >= frees * 999, "{matched} of {frees} frees matched");
    assert_eq!(report.number("/health/unknown_frees"), 0, "traced from the first allocation");
}
