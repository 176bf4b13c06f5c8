//! The kernels where the time goes: matrix products and the selective scan, in processor time on one thread.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use criterion::{BenchmarkId, Criterion, Throughput};
use peftbench_ops::clock::process_cpu_time;
use peftbench_ops::gemm::{Into, Matrix, multiply};
use peftbench_ops::scan::ScanInputs;
use peftbench_ops::{Device, Param, Tape, Tensor, Var, memory};
use std::hint::black_box;
use std::time::Duration;

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919) % 1009) as f32 / 1009.0 - 0.5).collect()
}

/// Processor time of `count` runs of `work`, without what `prepare` and dropping the results take.
fn cpu_time<I, R>(count: u64, prepare: impl Fn() -> I, mut work: impl FnMut(I) -> R) -> Duration {
    let now = || process_cpu_time().unwrap();
    let timed = |_| {
        let input = prepare();
        let started = now();
        let result = black_box(work(input));
        let elapsed = now() - started;
        drop(result);
        elapsed
    };
    (0..count).map(timed).sum()
}

/// Shapes (tokens, out, in) of the layers of LLaMA with hidden 256 and 768, its head, LoRA's two, and a cube. NT is the forward pass x Wᵀ, NN the
/// gradient with respect to x, TN that with respect to W. The throughput is in FLOP/s.
fn products(criterion: &mut Criterion) {
    let shapes = [
        (1024, 256, 256),
        (1024, 688, 256),
        (256, 768, 768),
        (256, 2048, 768),
        (256, 768, 2048),
        (256, 32_000, 768),
        (256, 8, 768),
        (256, 768, 8),
        (1024, 1024, 1024),
    ];
    let mut group = criterion.benchmark_group("gemm");
    group.warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(500)).sample_size(10);
    for (m, n, k) in shapes {
        let (a, b, mut out) = (values(m * k), values(n * k), values(m * n));
        group.throughput(Throughput::Elements((2 * m * n * k) as u64));
        let layouts = [
            ("NT", Matrix::rows(&a, k), Matrix::rows(&b, k).t()),
            ("NN", Matrix::rows(&a, k), Matrix::rows(&b, n)),
            ("TN", Matrix::rows(&a, m).t(), Matrix::rows(&b, n)),
        ];
        for (layout, a, b) in layouts {
            group.bench_function(BenchmarkId::new(layout, format!("{m}x{n}x{k}")), |bencher| {
                bencher.iter_custom(|count| cpu_time(count, || (), |()| multiply(m, n, k, a, b, 1.0, &mut out, n, Into::Overwrite)));
            });
        }
    }
    group.finish();
}

fn param(name: &str, dims: &[usize]) -> Param {
    Param::trainable(name, Tensor::from_vec(values(dims.iter().product()), dims, &Device::Cpu).unwrap())
}

/// Mamba's scan at d_inner 1536 and state 16. The throughput is in elements: batch · length · d_inner · state.
fn scan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("selective_scan");
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(2)).sample_size(10);
    for (batch, length) in [(1, 256), (4, 512)] {
        let (width, state) = (1536, 16);
        group.throughput(Throughput::Elements((batch * length * width * state) as u64));
        let sequence = [batch, length, width];
        let (wide, narrow) = (param("sequence", &sequence), param("selective", &[batch, length, state]));
        let (u, dt, z) = (param("u", &sequence), param("dt", &sequence), param("z", &sequence));
        let (b, c, d) = (narrow, param("c", &[batch, length, state]), param("d", &[width]));
        let a = Param::trainable("a", param("a", &[width, state]).value().affine(-4.0, -3.0).unwrap());
        let run = |tape: &Tape| {
            let vars: Vec<Var> = [&u, &dt, &a, &b, &c, &d, &z].iter().map(|p| tape.param(p)).collect();
            let [u, dt, a, b, c, d, z] = &vars[..] else { unreachable!() };
            tape.selective_scan(ScanInputs { u, dt, a, b, c, d, z, initial_state: None }).unwrap().0
        };
        group.bench_function(BenchmarkId::new("forward", format!("{batch}x{length}")), |bencher| {
            bencher.iter_custom(|count| cpu_time(count, Tape::new, |tape| (run(&tape), tape)));
        });
        let grad = wide.value();
        group.bench_function(BenchmarkId::new("backward", format!("{batch}x{length}")), |bencher| {
            let prepare = || {
                let tape = Tape::new();
                let output = run(&tape);
                (tape, output)
            };
            bencher.iter_custom(|count| cpu_time(count, prepare, |(tape, output)| tape.backward_from(&output, grad.clone()).unwrap()));
        });
    }
    group.finish();
}

fn main() {
    memory::keep_freed_memory();
    // The calling thread is the pool's only one.
    let _pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build().unwrap();
    let mut criterion = Criterion::default().configure_from_args();
    products(&mut criterion);
    scan(&mut criterion);
    criterion.final_summary();
}
