//! Figures of simulated runs.

use dualpool_model::VirtualSettings;
use dualpool_report::measure;
use dualpool_router::CostModel;
use dualpool_types::records::{Outcome, RequestRecord};
use dualpool_types::{Arrangement, Class, Micros, Request, Time};

/// Serves the requests on engines as they are by default and returns how that went.
pub fn run(arrangement: &Arrangement, seed: u64, requests: &[(Time, Request)]) -> Figures {
    let records = dualpool_sim::serve(arrangement, &VirtualSettings::default(), CostModel::default(), requests, seed);
    Figures::of(&records.expect("a valid arrangement"))
}

/// What runs gave, pooled over all of them. Times in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    runs: f64,
    requests: f64,
    good: f64,
    tokens: f64,
    seconds: f64,
    short_ttft: Vec<f64>,
    long_ttft: Vec<f64>,
    itl: Vec<f64>,
}

fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(((sorted.len() as f64 * q) as usize).min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

impl Figures {
    fn of(records: &[RequestRecord]) -> Figures {
        let mut figures = Figures { runs: 1.0, requests: records.len() as f64, ..Figures::default() };
        let mut last = Micros::ZERO;
        for record in records {
            assert_eq!(record.outcome, Outcome::Done, "{}", record.id);
            let ttft = measure::ttft_ms(record).expect("a request that is done has tokens");
            figures.good += f64::from(u8::from(measure::within_objectives(record)));
            figures.tokens += record.tokens.len() as f64;
            (if record.class == Class::Long { &mut figures.long_ttft } else { &mut figures.short_ttft }).push(ttft);
            figures.itl.extend(measure::itls_ms(record));
            last = last.max(record.ended_us);
        }
        let first = records.iter().map(|record| record.arrived_us).min().unwrap_or_default();
        figures.seconds = (last - first).as_secs();
        figures
    }

    pub fn pooled(all: impl IntoIterator<Item = Figures>) -> Figures {
        all.into_iter().fold(Figures::default(), |mut sum, run| {
            sum.runs += run.runs;
            sum.requests += run.requests;
            sum.good += run.good;
            sum.tokens += run.tokens;
            sum.seconds += run.seconds;
            sum.short_ttft.extend(run.short_ttft);
            sum.long_ttft.extend(run.long_ttft);
            sum.itl.extend(run.itl);
            sum
        })
    }

    pub fn output_tokens_per_s(&self) -> f64 {
        self.tokens / self.seconds
    }

    /// Share of requests within their objectives.
    pub fn goodput(&self) -> f64 {
        self.good / self.requests
    }

    pub fn short_ttft(&self, q: f64) -> f64 {
        quantile(&self.short_ttft, q)
    }

    pub fn long_ttft(&self, q: f64) -> f64 {
        quantile(&self.long_ttft, q)
    }

    pub fn itl(&self, q: f64) -> f64 {
        quantile(&self.itl, q)
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:4.0} tok/s | TTFT short {:4.0} {:4.0} long {:4.0} {:4.0} | ITL {:3.0} {:3.0} {:3.0} {:4.0} | goodput {:3.0} %",
            self.output_tokens_per_s(),
            self.short_ttft(0.5),
            self.short_ttft(0.95),
            self.long_ttft(0.5),
            self.long_ttft(0.95),
            self.itl(0.5),
            self.itl(0.95),
            self.itl(0.99),
            self.itl(1.0),
            self.goodput() * 100.0,
        )
    }
}
