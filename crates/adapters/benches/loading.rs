//! Loading a safetensors file of 500 MB: time against that of just reading the file, and peak memory against its size.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use criterion::{Criterion, SamplingMode, Throughput};
use peftbench_models::checkpoint::Checkpoint;
use peftbench_ops::clock::process_cpu_time;
use peftbench_ops::memory::{self, CountingAllocator};
use peftbench_ops::{Device, Tensor};
use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Tensors of 10 MB.
const TENSORS: usize = 50;
const ELEMENTS: usize = 2_500_000;

/// Writes the file without ever holding it.
fn write(path: &Path) {
    let bytes = ELEMENTS * 4;
    let entry =
        |i: usize| format!("\"t{i}\":{{\"dtype\":\"F32\",\"shape\":[2500,1000],\"data_offsets\":[{},{}]}}", i * bytes, (i + 1) * bytes);
    let header = format!("{{{}}}", (0..TENSORS).map(entry).collect::<Vec<_>>().join(","));
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    let values: Vec<u8> = (0..ELEMENTS).flat_map(|i| (i as f32).to_le_bytes()).collect();
    (0..TENSORS).for_each(|_| file.write_all(&values).unwrap());
    file.into_inner().unwrap().sync_all().unwrap();
}

fn load(path: &Path) -> Vec<Tensor> {
    let checkpoint = Checkpoint::open_files(&[path.to_owned()], "bench".to_owned(), &Device::Cpu).unwrap();
    (0..TENSORS).map(|i| checkpoint.read(&format!("t{i}")).unwrap()).collect()
}

/// The least time by the clock and by processor time.
fn time<R>(best: &mut (Duration, Duration), work: impl FnOnce() -> R) -> Duration {
    let (wall, cpu) = (Instant::now(), process_cpu_time().unwrap());
    let result = black_box(work());
    let (wall, cpu) = (wall.elapsed(), process_cpu_time().unwrap() - cpu);
    *best = (best.0.min(wall), best.1.min(cpu));
    drop(result);
    wall
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(&path);
    let size = std::fs::metadata(&path).unwrap().len();
    let before = memory::reset_peak();
    let resident = memory::resident_peak_bytes();
    drop(load(&path));
    let peak = memory::peak_bytes() - before;
    let resident_growth = memory::resident_peak_bytes().zip(resident).map(|(after, before)| after - before);
    let none = (Duration::MAX, Duration::MAX);
    let (mut reading, mut loading) = (none, none);
    let mut group = criterion.benchmark_group("safetensors_500MB");
    group.sampling_mode(SamplingMode::Flat).sample_size(10).throughput(Throughput::Bytes(size));
    group.warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_secs(5));
    group.bench_function("load", |bencher| {
        bencher.iter_custom(|count| {
            let mut total = Duration::ZERO;
            for _ in 0..count {
                // Each load has a read beside it, under the same conditions.
                time(&mut reading, || std::fs::read(&path).unwrap());
                total += time(&mut loading, || load(&path));
            }
            total
        });
    });
    group.finish();
    criterion.final_summary();
    if loading == none {
        return;
    }
    let share = |bytes: u64| bytes as f64 / size as f64;
    println!("\nsafetensors of {size} bytes           measured  (target)");
    println!("peak of the heap / file size       {:>8.3}  (1.3)", share(peak));
    if let Some(growth) = resident_growth {
        println!("growth of resident peak / size     {:>8.3}  (1.3)", share(growth));
    }
    println!("time / time of reading, clock      {:>8.3}  (2.0)", loading.0.as_secs_f64() / reading.0.as_secs_f64());
    println!("time / time of reading, processor  {:>8.3}  (2.0)", loading.1.as_secs_f64() / reading.1.as_secs_f64());
}
