//! What this machine's processors did while something was measured, and how much of it was not this program's doing.

use std::collections::{BTreeMap, BTreeSet};

use nix::sched::sched_getaffinity;
use nix::unistd::Pid;
use procfs::process::{Stat, all_processes};
use procfs::{CpuPressure, CpuTime, Current, CurrentSI, KernelStats, ticks_per_second};

/// The counters of the processors that this program may use, at one moment.
#[derive(Clone, Debug)]
pub struct Activity {
    processors: usize,
    /// Ticks of all of them: all there were, those in which anything ran, and those that a hypervisor gave to others.
    all: u64,
    busy: u64,
    stolen: u64,
    /// Of the busy ones, those of this program and of all processes that it started.
    own: u64,
    /// Microseconds in which something that could have run waited for a processor; none where the kernel does not count them.
    waited_us: Option<u64>,
}

/// What happened between two moments, as shares of the processors' time: 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shares {
    /// Other programs ran.
    pub others: f64,
    /// A hypervisor ran another machine.
    pub stolen: f64,
    /// Something waited for a processor; a share of the time, however many processors there are. None where the kernel does not say.
    pub pressure: Option<f64>,
}

impl Activity {
    /// None where the kernel does not show its counters.
    pub fn now() -> Option<Activity> {
        let stat = KernelStats::current().ok()?;
        // Where the affinity cannot be read, nothing is known to be forbidden.
        let allowed = sched_getaffinity(Pid::from_raw(0)).ok();
        let may_use = |cpu: usize| allowed.is_none_or(|set| set.is_set(cpu).unwrap_or(false));
        let times: Vec<&CpuTime> =
            stat.cpu_time.iter().enumerate().filter(|&(cpu, _)| may_use(cpu)).map(|(_, time)| time).collect();
        let stolen = times.iter().filter_map(|time| time.steal).sum();
        let busy = times.iter().map(|time| running(time)).sum();
        let idle: u64 = times.iter().map(|time| time.idle + time.iowait.unwrap_or(0)).sum();
        Some(Activity {
            processors: times.len(),
            all: busy + stolen + idle,
            busy,
            stolen,
            own: own_ticks(),
            waited_us: CpuPressure::current().ok().map(|pressure| pressure.some.total),
        })
    }

    /// What happened since then. None where no time went by.
    pub fn since(&self, earlier: &Activity) -> Option<Shares> {
        let all = self.all.checked_sub(earlier.all).filter(|&ticks| ticks > 0)? as f64;
        let more = |now: u64, then: u64| now.saturating_sub(then);
        // The own ticks of a process that ended without being waited for are lost, and count as those of others.
        let others = more(more(self.busy, earlier.busy), more(self.own, earlier.own));
        let seconds = all / ticks_per_second() as f64 / self.processors as f64;
        let waited = self.waited_us.zip(earlier.waited_us).map(|(now, then)| more(now, then) as f64 / 1e6);
        let share = |part: f64| part.clamp(0.0, 1.0);
        Some(Shares {
            others: share(others as f64 / all),
            stolen: share(more(self.stolen, earlier.stolen) as f64 / all),
            pressure: waited.map(|waited| share(waited / seconds)),
        })
    }
}

/// Ticks in which something ran. What guests used is in `user` and `nice`.
fn running(time: &CpuTime) -> u64 {
    time.user + time.nice + time.system + time.irq.unwrap_or(0) + time.softirq.unwrap_or(0)
}

/// Ticks of this process and of all that descend from it; of those that are over, as far as they were waited for.
fn own_ticks() -> u64 {
    let Ok(processes) = all_processes() else { return 0 };
    let stats: Vec<Stat> = processes.filter_map(|process| process.ok()?.stat().ok()).collect();
    let mut children: BTreeMap<i32, Vec<&Stat>> = BTreeMap::new();
    stats.iter().for_each(|stat| children.entry(stat.ppid).or_default().push(stat));
    let own = Pid::this().as_raw();
    let (mut seen, mut ticks) = (BTreeSet::new(), 0);
    let mut next: Vec<&Stat> = stats.iter().filter(|stat| stat.pid == own).collect();
    while let Some(stat) = next.pop() {
        // Ids are given again, so what was read one after the other may form a ring.
        if seen.insert(stat.pid) {
            ticks += stat.utime + stat.stime + u64::try_from(stat.cutime + stat.cstime).unwrap_or(0);
            next.extend(children.get(&stat.pid).into_iter().flatten());
        }
    }
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(all: u64, busy: u64, stolen: u64, own: u64, waited_us: u64) -> Activity {
        Activity { processors: 2, all, busy, stolen, own, waited_us: Some(waited_us) }
    }

    #[test]
    fn what_others_used_is_what_ran_less_what_is_ours() {
        let second = ticks_per_second();
        // Two seconds of two processors: three of four ran, half of that was ours; and for half of the time something waited.
        let (then, now) =
            (at(100, 50, 7, 20, 0), at(100 + 4 * second, 50 + 3 * second, 7 + second / 2, 20 + 3 * second / 2, 1_000_000));
        let shares = now.since(&then).unwrap();
        assert_eq!(shares, Shares { others: 0.375, stolen: 0.125, pressure: Some(0.5) });
        assert_eq!(then.since(&then), None);
        assert_eq!(then.since(&now), None, "counters that went back say nothing");
    }

    #[test]
    fn a_child_that_works_is_none_of_the_others() {
        let Some(before) = Activity::now() else { return };
        let (own, ticks) = (before.own, ticks_per_second() / 10);
        let mut child = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        // Its own time, however slow the machine is.
        while Activity::now().unwrap().own < own + ticks {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(Activity::now().unwrap().own >= own + ticks, "what was waited for stays counted");
    }
}
