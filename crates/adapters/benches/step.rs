//! LoRA training steps, as a share of the rate at which this project's own matrix product runs (model-FLOPs utilisation).
//!
//! Between every two steps the products of the model's first layer are timed, so that both see the same machine. The table at the
//! end holds, for one thread and for two, the ratio of the best step to the best products, in wall-clock time and in processor time (what
//! a machine that does other work besides lets one see), and the memory a step takes.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../tests/step/mod.rs"]
mod step;

use criterion::{Criterion, SamplingMode};
use peftbench_ops::clock::process_cpu_time;
use peftbench_ops::gemm::{Into, Matrix, multiply};
use peftbench_ops::memory::{self, CountingAllocator};
use std::time::{Duration, Instant};
use step::{Shape, Step, llama_110m, llama_small, mamba_130m};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// y = x Wᵀ for each linear layer of a model's first layer, in memory of its own.
struct Products {
    rows: usize,
    layers: Vec<(usize, usize, Vec<f32>)>,
    x: Vec<f32>,
    y: Vec<f32>,
}

impl Products {
    fn new(rows: usize, dims: &[(usize, usize)]) -> Self {
        let (out, input) = (dims.iter().map(|d| d.0).max().unwrap(), dims.iter().map(|d| d.1).max().unwrap());
        let values = |n: usize| (0..n).map(|i| ((i * 7919) % 1009) as f32 / 1009.0 - 0.5).collect::<Vec<f32>>();
        let layers = dims.iter().map(|&(o, i)| (o, i, values(o * i))).collect();
        Self { rows, layers, x: values(rows * input), y: vec![0.0; rows * out] }
    }

    fn run(&mut self) {
        for (out, input, weight) in &self.layers {
            let (x, w) = (Matrix::rows(&self.x, *input), Matrix::rows(weight, *input).t());
            multiply(self.rows, *out, *input, x, w, 1.0, &mut self.y, *out, Into::Overwrite);
        }
    }

    fn flops(&self) -> f64 {
        self.layers.iter().map(|(o, i, _)| 2.0 * (self.rows * o * i) as f64).sum()
    }
}

/// What one shape reached on so many threads.
struct Line {
    name: String,
    threads: usize,
    target: f64,
    /// GFLOP/s of the products and of the step, by the clock and by processor time.
    wall: (f64, f64),
    cpu: (f64, f64),
    tokens_per_second: f64,
    growth: u64,
}

/// The least time seen, by the clock and by processor time.
#[derive(Clone, Copy)]
struct Best(Duration, Duration);

impl Best {
    const NONE: Self = Self(Duration::MAX, Duration::MAX);

    /// Runs `work` and returns the time by the clock.
    fn time(&mut self, work: impl FnOnce()) -> Duration {
        let (wall, cpu) = (Instant::now(), process_cpu_time().unwrap());
        work();
        let (wall, cpu) = (wall.elapsed(), process_cpu_time().unwrap() - cpu);
        *self = Self(self.0.min(wall), self.1.min(cpu));
        wall
    }
}

/// A step and its products, made when the first iteration needs them.
struct Subject {
    step: Step,
    products: Products,
    growth: u64,
}

impl Subject {
    fn new(shape: &Shape, pool: &rayon::ThreadPool) -> Self {
        let mut step = Step::new(shape);
        let products = Products::new(shape.tokens(), &step.layer_products(0));
        let live = memory::reset_peak();
        pool.install(|| step.run());
        Self { step, products, growth: memory::peak_bytes() - live }
    }
}

/// `None` if the command line filters it out.
fn measure(criterion: &mut Criterion, shape: &Shape, threads: usize, target: f64) -> Option<Line> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let (mut best_step, mut best_products) = (Best::NONE, Best::NONE);
    let mut subject = None;
    let mut group = criterion.benchmark_group(format!("lora_step/{}", shape.name));
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(8));
    group.bench_function(format!("{threads}_threads"), |bencher| {
        let Subject { step, products, .. } = subject.get_or_insert_with(|| Subject::new(shape, &pool));
        bencher.iter_custom(|iterations| {
            let mut total = Duration::ZERO;
            for _ in 0..iterations {
                for _ in 0..3 {
                    pool.install(|| best_products.time(|| products.run()));
                }
                total += pool.install(|| best_step.time(|| drop(step.run())));
            }
            total
        });
    });
    group.finish();
    let Subject { mut step, products, growth } = subject?;
    let flops = step.flops(shape);
    let rates = |time: fn(Best) -> Duration| {
        let rate = |flops: f64, best: Best| flops / time(best).as_secs_f64() / 1e9;
        (rate(products.flops(), best_products), rate(flops, best_step))
    };
    let (wall, cpu) = (rates(|best| best.0), rates(|best| best.1));
    let tokens_per_second = shape.tokens() as f64 / best_step.0.as_secs_f64();
    Some(Line { name: shape.name.clone(), threads, target, wall, cpu, tokens_per_second, growth })
}

fn main() {
    memory::keep_freed_memory();
    let mut criterion = Criterion::default().configure_from_args();
    let mut lines = Vec::new();
    for threads in [1, 2] {
        lines.extend(measure(&mut criterion, &llama_110m(), threads, 0.88));
        lines.extend(measure(&mut criterion, &llama_small(), threads, 0.82));
        lines.extend(measure(&mut criterion, &mamba_130m(), threads, 0.65));
    }
    criterion.final_summary();
    println!("\n                      GFLOP/s by the clock             by processor time");
    println!("shape        threads   GEMM   step    MFU   GEMM   step    MFU  (target)  tokens/s  memory growth MiB");
    for line in lines {
        let rates = |(gemm, step): (f64, f64)| format!("{gemm:>6.1} {step:>6.1}  {:.3}", step / gemm);
        let (wall, cpu, growth) = (rates(line.wall), rates(line.cpu), line.growth as f64 / (1 << 20) as f64);
        println!(
            "{:<12} {:>7} {wall} {cpu}    ({:.2})  {:>8.0}  {growth:>17.0}",
            line.name, line.threads, line.target, line.tokens_per_second
        );
    }
}
