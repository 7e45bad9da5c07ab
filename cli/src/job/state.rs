//! The job's state and what an event does to it. All of it lives in Siltstone's typed state, keyed by tail number.
//!
//! | state | kind | holds |
//! |---|---|---|
//! | `windows` | aggregating | the open day of each aircraft: the input is in order, so it has one open window at a time |
//! | `window-ends` | timers | when that window fires |
//! | `arr-delays` | list | the last 100 delays on arrival |
//! | `last-event` | value | the time of the event before |
//! | `routes` | map by destination | flights and delays, forgotten after 7 days without a flight |

use serde::{Deserialize, Serialize};
use siltstone::state::{Aggregate, AggregatingState, Descriptor, ListState, MapState, Timers, ValueState};
use siltstone::{Engine, Error, LocalShard, Options, Result, TimeDomain, Ttl};

use super::event::{DAY_MS, Event};

/// How many delays an alert looks at, at most and at least, and the mean delay in minutes above which it is raised.
const ALERT_DELAYS_MAX: u64 = 100;
const ALERT_DELAYS_MIN: u64 = 20;
const ALERT_MEAN_DELAY_MINUTES: i64 = 30;
/// A longer time without an event is a gap.
const GAP_MS: i64 = 30 * DAY_MS;
/// How long a route is remembered after its last flight.
const ROUTE_TTL: Ttl = Ttl { duration_ms: 7 * DAY_MS as u64, time: TimeDomain::Event };

/// The declarations of the states.
pub(crate) struct Declarations {
    windows: Descriptor<AggregatingState<String, DayOfFlights>>,
    window_ends: Descriptor<Timers<String>>,
    arr_delays: Descriptor<ListState<String, i32>>,
    last_event: Descriptor<ValueState<String, i64>>,
    routes: Descriptor<MapState<String, String, Route>>,
}

impl Declarations {
    pub(crate) fn new() -> Self {
        Declarations {
            windows: Descriptor::new("windows"),
            window_ends: Descriptor::new("window-ends"),
            arr_delays: Descriptor::new("arr-delays"),
            last_event: Descriptor::new("last-event"),
            routes: Descriptor::new("routes").ttl(ROUTE_TTL),
        }
    }

    /// Has the opening create what is missing.
    pub(crate) fn register(&self, options: Options) -> Options {
        options
            .state(&self.windows)
            .state(&self.window_ends)
            .state(&self.arr_delays)
            .state(&self.last_event)
            .state(&self.routes)
    }

    /// The states of an open engine.
    pub(crate) fn bind(&self, engine: &Engine) -> Result<States> {
        Ok(States {
            windows: self.windows.bind(engine)?,
            window_ends: self.window_ends.bind(engine)?,
            arr_delays: self.arr_delays.bind(engine)?,
            last_event: self.last_event.bind(engine)?,
            routes: self.routes.bind(engine)?,
        })
    }
}

/// The states.
pub(crate) struct States {
    windows: AggregatingState<String, DayOfFlights>,
    window_ends: Timers<String>,
    arr_delays: ListState<String, i32>,
    last_event: ValueState<String, i64>,
    routes: MapState<String, String, Route>,
}

/// What an event caused.
#[derive(Default)]
pub(crate) struct Effects {
    pub(crate) alert: Option<Alert>,
    pub(crate) gap_minutes: Option<i64>,
}

/// An aircraft's recent delays are long.
pub(crate) struct Alert {
    pub(crate) delays: u64,
    pub(crate) arr_delay_sum: i64,
}

/// A window that has fired.
pub(crate) struct Window {
    pub(crate) end_ms: i64,
    pub(crate) tailnum: String,
    pub(crate) day: DayStats,
}

/// When the window of an event ends: the beginning of the next day, UTC.
pub(crate) fn window_end_ms(time_ms: i64) -> i64 {
    (time_ms.div_euclid(DAY_MS) + 1) * DAY_MS
}

impl States {
    /// Processes an event on the shard of its tail number.
    pub(crate) async fn process(&self, shard: &LocalShard, event: &Event) -> Result<Effects> {
        let shard = shard.at(event.time_ms as u64);
        let mut effects = Effects::default();

        self.windows.add(&shard, &event.tailnum, event.dep_delay).await?;
        self.window_ends.register(&shard, window_end_ms(event.time_ms), &event.tailnum).await?;

        if let Some(delay) = event.arr_delay {
            self.arr_delays.push_bounded(&shard, &event.tailnum, &delay, ALERT_DELAYS_MAX).await?;
            let (delays, arr_delay_sum) = self
                .arr_delays
                .fold(&shard, &event.tailnum, (0, 0), |(count, sum), delay| (count + 1, sum + i64::from(delay)))
                .await?;
            if delays >= ALERT_DELAYS_MIN && arr_delay_sum > ALERT_MEAN_DELAY_MINUTES * delays as i64 {
                effects.alert = Some(Alert { delays, arr_delay_sum });
            }
        }

        if let Some(before_ms) = self.last_event.get(&shard, &event.tailnum).await? {
            let gap_ms = event.time_ms - before_ms;
            effects.gap_minutes = (gap_ms > GAP_MS).then_some(gap_ms / 60_000);
        }
        self.last_event.set(&shard, &event.tailnum, &event.time_ms).await?;

        self.routes
            .update(&shard, &event.tailnum, &event.dest, |route| {
                let mut route = route.unwrap_or_default();
                route.flights += 1;
                route.arr_delay_sum += i64::from(event.arr_delay.unwrap_or(0));
                Some(route)
            })
            .await?;
        Ok(effects)
    }

    /// Fires the shard's timers with a time of at most `until_ms`, in order. Also returns the time of the next.
    ///
    /// No event may be under way. This is where the watermark moves: what has expired by then may be dropped, and an earlier event that is still
    /// waiting for the device would miss it.
    pub(crate) async fn fire(&self, shard: &LocalShard, until_ms: i64) -> Result<(Vec<Window>, Option<i64>)> {
        if until_ms != i64::MAX {
            shard.advance_watermark(until_ms as u64);
        }
        let mut windows = Vec::new();
        while let Some((end_ms, tailnum)) = self.window_ends.pop_due(shard, until_ms).await? {
            let Some(day) = self.windows.take(shard, &tailnum).await? else {
                return Err(Error::corruption("state of the flights job", format!("the window of {tailnum} is gone")));
            };
            windows.push(Window { end_ms, tailnum, day });
        }
        Ok((windows, self.window_ends.next_due(shard).await?))
    }

    /// The shard's routes that are live at a time.
    pub(crate) async fn routes(&self, shard: &LocalShard, time_ms: i64) -> Result<Vec<(String, String, Route)>> {
        let mut entries = self.routes.entries(&shard.at(time_ms as u64))?;
        let mut routes = Vec::new();
        while let Some(route) = entries.next().await? {
            routes.push(route);
        }
        Ok(routes)
    }
}

/// The flights of one aircraft on one day.
#[derive(Clone, Copy, Default)]
pub(crate) struct DayOfFlights;

/// What is kept of them.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct DayStats {
    pub(crate) flights: u64,
    pub(crate) dep_delay_sum: i64,
    pub(crate) dep_delay_min: Option<i32>,
    pub(crate) dep_delay_max: Option<i32>,
}

impl Aggregate for DayOfFlights {
    type In = Option<i32>;
    type Acc = DayStats;
    type Out = DayStats;

    fn empty(&self) -> DayStats {
        DayStats::default()
    }

    fn add(&self, day: &mut DayStats, dep_delay: Option<i32>) {
        day.flights += 1;
        if let Some(delay) = dep_delay {
            day.dep_delay_sum += i64::from(delay);
            day.dep_delay_min = Some(day.dep_delay_min.map_or(delay, |min| min.min(delay)));
            day.dep_delay_max = Some(day.dep_delay_max.map_or(delay, |max| max.max(delay)));
        }
    }

    fn result(&self, day: DayStats) -> DayStats {
        day
    }
}

/// An aircraft's flights to one destination.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Route {
    pub(crate) flights: u64,
    pub(crate) arr_delay_sum: i64,
}
