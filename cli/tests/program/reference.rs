//! The job's four outputs, computed by plain code over collections in memory. It shares nothing with the job: its own reading of rows and
//! times, no timers (the order of the windows' rows follows from what they are), no expiry (a route's age is looked at where it matters).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Write;

/// The contents of windows.csv, alerts.csv, gaps.csv and routes.csv.
pub(crate) struct Expected {
    pub(crate) files: [(&'static str, String); 4],
    pub(crate) events: usize,
}

#[derive(Default)]
struct Window {
    flights: usize,
    delays: Vec<i64>,
}

struct Route {
    flights: usize,
    arr_delay_sum: i64,
    updated: i64,
}

const DAY_SECONDS: i64 = 86_400;

pub(crate) fn reference(text: &str) -> Expected {
    let mut windows: BTreeMap<(String, String), Window> = BTreeMap::new();
    let mut alerts = "event_time,tailnum,n,arr_delay_sum\n".to_string();
    let mut gaps = "event_time,tailnum,minutes\n".to_string();
    let mut recent: HashMap<String, VecDeque<i64>> = HashMap::new();
    let mut last_event: HashMap<String, i64> = HashMap::new();
    let mut routes: BTreeMap<(String, String), Route> = BTreeMap::new();
    let mut now = 0;
    let mut events = 0;

    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().expect("a header").split(',').collect();
    for line in lines {
        let row: HashMap<&str, &str> = header.iter().copied().zip(line.split(',')).collect();
        let (time, tailnum, dest) = (row["event_time"], row["tailnum"].to_string(), row["dest"].to_string());
        if tailnum.is_empty() {
            continue;
        }
        events += 1;
        now = seconds(time);

        let window = windows.entry((time[..10].to_string(), tailnum.clone())).or_default();
        window.flights += 1;
        window.delays.extend(row["dep_delay"].parse::<i64>());

        if let Ok(delay) = row["arr_delay"].parse::<i64>() {
            let delays = recent.entry(tailnum.clone()).or_default();
            delays.push_back(delay);
            if delays.len() > 100 {
                delays.pop_front();
            }
            let (n, sum) = (delays.len() as i64, delays.iter().sum::<i64>());
            if n >= 20 && sum > 30 * n {
                writeln!(alerts, "{time},{tailnum},{n},{sum}").unwrap();
            }
        }

        if let Some(before) = last_event.insert(tailnum.clone(), now)
            && now - before > 30 * DAY_SECONDS
        {
            writeln!(gaps, "{time},{tailnum},{}", (now - before) / 60).unwrap();
        }

        let route = routes.entry((tailnum, dest)).or_insert(Route { flights: 0, arr_delay_sum: 0, updated: now });
        if route.updated + 7 * DAY_SECONDS <= now {
            *route = Route { flights: 0, arr_delay_sum: 0, updated: now };
        }
        route.flights += 1;
        route.arr_delay_sum += row["arr_delay"].parse().unwrap_or(0);
        route.updated = now;
    }

    let mut window_rows = "window_start,tailnum,flights,dep_delay_sum,dep_delay_min,dep_delay_max\n".to_string();
    for ((day, tailnum), Window { flights, delays }) in windows {
        let show = |delay: Option<&i64>| delay.map(i64::to_string).unwrap_or_default();
        let (sum, min, max) = (delays.iter().sum::<i64>(), show(delays.iter().min()), show(delays.iter().max()));
        writeln!(window_rows, "{day}T00:00:00Z,{tailnum},{flights},{sum},{min},{max}").unwrap();
    }
    let mut route_rows = "tailnum,dest,flights,arr_delay_sum\n".to_string();
    for ((tailnum, dest), route) in routes {
        if route.updated + 7 * DAY_SECONDS > now {
            writeln!(route_rows, "{tailnum},{dest},{},{}", route.flights, route.arr_delay_sum).unwrap();
        }
    }
    Expected {
        files: [("windows.csv", window_rows), ("alerts.csv", alerts), ("gaps.csv", gaps), ("routes.csv", route_rows)],
        events,
    }
}

/// Seconds since the beginning of 2013, by counting days.
fn seconds(time: &str) -> i64 {
    let number = |from: usize, to: usize| time[from..to].parse::<i64>().expect("digits");
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    let days_of = |year: i64, month: i64| match month {
        2 if year % 4 == 0 => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let mut days = day - 1;
    for earlier in 2013..year {
        days += (1..=12).map(|month| days_of(earlier, month)).sum::<i64>();
    }
    days += (1..month).map(|month| days_of(year, month)).sum::<i64>();
    days * DAY_SECONDS + number(11, 13) * 3600 + number(14, 16) * 60 + number(17, 19)
}
