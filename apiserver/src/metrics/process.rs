//! Memory, time and files of this process, as far as the kernel tells (`prometheus/client_golang`'s process collector).

use std::{fs, sync::OnceLock};

use jiff::{SignedDuration, Timestamp};

use super::page::{Page, Type};

/// Ticks of a second, as the kernel tells times.
const TICKS: f64 = 100.0;
const START: (&str, &str) = ("process_start_time_seconds", "Start time of the process since unix epoch in seconds.");

pub(super) fn write(page: &mut Page) {
    let Some(stat) = stat() else { return };
    let mut counter = |name, help, value| page.family(name, Type::Counter, help).pairs(&[], value);
    counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", (stat[11] + stat[12]) / TICKS);
    let (received, sent) = network();
    counter("process_network_receive_bytes_total", "Number of bytes received by the process over the network.", received);
    counter("process_network_transmit_bytes_total", "Number of bytes sent by the process over the network.", sent);
    let page_size = rustix::param::page_size() as f64;
    page.gauge("process_resident_memory_bytes", "Resident memory size in bytes.", &[], stat[21] * page_size);
    page.gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", &[], stat[20]);
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One of them reads the list.
        page.gauge("process_open_fds", "Number of open file descriptors.", &[], open.count().saturating_sub(1) as f64);
    }
    if let Ok(limits) = fs::read_to_string("/proc/self/limits") {
        let limit = |name: &str| {
            let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<f64>().ok()
        };
        page.gauge("process_max_fds", "Maximum number of open file descriptors.", &[], limit("Max open files").unwrap_or(f64::INFINITY));
        let most = limit("Max address space").unwrap_or(u64::MAX as f64);
        page.gauge("process_virtual_memory_max_bytes", "Maximum amount of virtual memory available in bytes.", &[], most);
    }
    write_start(page);
}

/// When the process started.
pub(super) fn write_start(page: &mut Page) {
    if let Some(at) = started() {
        page.gauge(START.0, START.1, &[], at.as_duration().as_secs_f64());
    }
}

/// The start, in hundredths of a second.
pub(crate) fn started() -> Option<Timestamp> {
    static AT: OnceLock<Option<Timestamp>> = OnceLock::new();
    *AT.get_or_init(|| {
        let boot = fs::read_to_string("/proc/stat").ok()?;
        let boot: f64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        Timestamp::from_duration(SignedDuration::try_from_secs_f64(boot + stat()?[19] / TICKS).ok()?).ok()
    })
}

/// The fields of `/proc/self/stat` after the command's closing parenthesis, as numbers: the state, which is none, is the first, utime the 12th.
fn stat() -> Option<Vec<f64>> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<f64> = text.rsplit(") ").next()?.split_whitespace().map(|f| f.parse().unwrap_or_default()).collect();
    (fields.len() > 22).then_some(fields)
}

/// Bytes received and sent by all interfaces of this process's network.
fn network() -> (f64, f64) {
    let text = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let counts = text.lines().filter_map(|line| line.split_once(':')).map(|(_, counts)| {
        let counts: Vec<f64> = counts.split_whitespace().map(|c| c.parse().unwrap_or_default()).collect();
        (counts.first().copied().unwrap_or_default(), counts.get(8).copied().unwrap_or_default())
    });
    counts.fold((0.0, 0.0), |(received, sent), (r, s)| (received + r, sent + s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_began_in_the_past() {
        let mut page = Page::default();
        write(&mut page);
        let text = page.finish();
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        assert!(value("process_resident_memory_bytes ") > 1e6 && value("process_open_fds ") > 2.0);
        let now = jiff::Timestamp::now().as_second() as f64;
        assert!((now - 3600.0 * 24.0..=now + 2.0).contains(&value("process_start_time_seconds ")), "{text}");
    }
}
