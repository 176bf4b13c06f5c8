//! Every operator gives the same bits on one thread and on two, forwards and backwards, at shapes that are split among threads.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use peftbench_ops::activation::Activation;
use peftbench_ops::adamw::{AdamWStep, Moments, adamw, sum_of_squares};
use peftbench_ops::attention::Heads;
use peftbench_ops::linear::LowRank;
use peftbench_ops::rotary::{RotaryLayout, RotaryTables};
use peftbench_ops::s4d::{Discretization, S4dInputs};
use peftbench_ops::scan::ScanInputs;
use peftbench_ops::ssd::SsdInputs;
use peftbench_ops::{Device, Param, Result, Tape, Tensor, Var};

type Operator = fn(&Tape, &[Var]) -> Result<Var>;

/// Name, shapes of the inputs, operator.
type Case = (&'static str, Vec<Vec<usize>>, Operator);

fn values(dims: &[usize], seed: u64) -> Tensor {
    let value = |i: u64| {
        let mixed = (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(seed).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    Tensor::from_vec((0..dims.iter().product::<usize>() as u64).map(value).collect::<Vec<f32>>(), dims, &Device::Cpu).unwrap()
}

fn low_rank(v: &[Var], a: usize, rows: std::ops::Range<usize>) -> LowRank {
    LowRank { a: v[a].clone(), b: v[a + 1].clone(), scale: 1.5, rows: rows.into(), input: None }
}

fn negative(t: &Tape, x: &Var) -> Result<Var> {
    t.scale(&t.exp(x)?, -1.0)
}

fn cases() -> Vec<Case> {
    let case = |name, shapes: &[&[usize]], operator: Operator| (name, shapes.iter().map(|s| s.to_vec()).collect(), operator);
    let (wide, sequence, selective) = (&[2, 150, 200][..], &[2, 150, 96][..], &[2, 150, 16][..]);
    vec![
        case("linear", &[wide, &[300, 200], &[300], &[8, 200], &[300, 8], &[4, 200], &[100, 4]], |t, v| {
            t.low_rank_linear(&v[0], &v[1], Some(&v[2]), &[low_rank(v, 3, 0..300), low_rank(v, 5, 50..150)])
        }),
        case("rms_norm", &[wide, &[200]], |t, v| t.rms_norm(&v[0], &v[1], 1e-5)),
        case("layer_norm", &[wide, &[200], &[200]], |t, v| t.layer_norm(&v[0], &v[1], &v[2], 1e-5)),
        case("gelu", &[wide], |t, v| t.activation(&v[0], Activation::Gelu)),
        case("swiglu", &[wide, wide], |t, v| t.swiglu(&v[0], &v[1])),
        case("rotary", &[&[2, 150, 192]], |t, v| {
            let angles = values(&[150, 8], 3);
            let tables = RotaryTables { cos: angles.cos()?, sin: angles.sin()?, layout: RotaryLayout::Halves };
            t.rotary(&v[0], &tables, 16)
        }),
        case("attention", &[&[2, 150, 192], &[2, 150, 96], &[2, 150, 96]], |t, v| {
            t.attention(&v[0], &v[1], &v[2], Heads { query: 6, key_value: 3, dim: 32 }, None, None)
        }),
        case("causal_conv_silu", &[sequence, &[96, 1, 4], &[96], &[2, 3, 96]], |t, v| {
            t.causal_conv_silu(&v[0], &v[1], Some(&v[2]), Some(&v[3]))
        }),
        case("selective_scan", &[sequence, sequence, &[96, 16], selective, selective, &[96], sequence, &[2, 96, 16]], |t, v| {
            let a = negative(t, &v[2])?;
            let inputs = ScanInputs { u: &v[0], dt: &v[1], a: &a, b: &v[3], c: &v[4], d: &v[5], z: &v[6], initial_state: Some(&v[7]) };
            Ok(t.selective_scan(inputs)?.0)
        }),
        case("ssd", &[sequence, &[2, 150, 6], &[6], &[6], selective, selective, &[6]], |t, v| {
            let a = negative(t, &v[3])?;
            let inputs = SsdInputs {
                x: &v[0],
                dt: &v[1],
                dt_bias: &v[2],
                a: &a,
                b: &v[4],
                c: &v[5],
                d: &v[6],
                initial_state: None,
                groups: 2,
                dt_limit: (0.0, f64::INFINITY),
            };
            Ok(t.ssd(inputs)?.0)
        }),
        case("s4d", &[sequence, &[96, 8], &[96, 8], &[96, 8, 2], &[96, 8, 2], &[96], &[96]], |t, v| {
            t.s4d(S4dInputs {
                u: &v[0],
                log_a_real: &v[1],
                a_imag: Some(&v[2]),
                b: Some(&v[3]),
                c: &v[4],
                log_dt: &v[5],
                d: &v[6],
                initial_state: None,
                discretization: Discretization::ZeroOrderHold,
            })
        }),
        case("cross_entropy", &[&[600, 64], &[5000, 64], &[5000]], |t, v| {
            let labels: Vec<u32> = (0..600).map(|i| i * 7).collect();
            t.cross_entropy(&v[0], &v[1], Some(&v[2]), &labels)
        }),
        case("select_rows", &[&[600, 64]], |t, v| t.select_rows(&v[0], &(0..600).rev().collect::<Vec<u32>>())),
        case("embedding", &[&[500, 200]], |t, v| {
            let ids: Vec<u32> = (0..300).map(|i| i * 31 % 500).collect();
            t.embedding(&v[0], &Tensor::from_vec(ids, (2, 150), &Device::Cpu)?)
        }),
        case("dropout", &[wide], |t, v| t.dropout(&v[0], 0.3, 5)),
        case("scale_columns", &[wide, &[200]], |t, v| t.scale_columns(&v[0], &v[1])),
        case("block_linear", &[wide, &[10, 20, 20]], |t, v| t.block_linear(&v[0], &v[1])),
        case("add", &[wide, wide], |t, v| t.add(&t.add(&v[0], &v[1])?, &t.scale(&v[0], 0.7)?)),
        case("mul", &[wide, wide], |t, v| t.mul(&v[0], &v[1])),
        case("matmul", &[&[2, 150, 200], &[2, 200, 120]], |t, v| t.matmul(&v[0], &v[1])),
        case("tanh", &[wide], |t, v| t.tanh(&v[0])),
        case("softmax", &[wide], |t, v| t.softmax(&v[0])),
        case("split and cat", &[wide], |t, v| {
            let parts = t.split(&v[0], 2, &[80, 120])?;
            t.cat(&[&parts[1], &parts[0]], 2)
        }),
        case("checkpoint", &[wide, &[200, 200]], |t, v| {
            let weight = Param::trainable("inner", values(&[200, 200], 9));
            t.checkpoint(&[&v[0], &v[1]], move |t, v| t.linear(&t.linear(&v[0], &v[1], None)?, &t.param(&weight), None))
        }),
    ]
}

/// The bits of the output and of every gradient.
fn run((_, shapes, operator): &Case) -> Vec<Vec<u32>> {
    let params: Vec<Param> =
        shapes.iter().enumerate().map(|(i, dims)| Param::trainable(format!("input {i}"), values(dims, i as u64))).collect();
    let tape = Tape::new();
    let vars: Vec<Var> = params.iter().map(|p| tape.param(p)).collect();
    let output = operator(&tape, &vars).unwrap();
    drop(vars);
    let value = output.value().clone();
    let grad = if value.rank() == 0 { value.ones_like().unwrap() } else { values(value.dims(), 77) };
    let grads = tape.backward_from(&output, grad).unwrap();
    std::iter::once(&value).chain(grads.iter().map(|(_, grad)| grad)).map(bits).collect()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

fn on_threads<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

#[test]
fn one_thread_and_more_give_the_same_bits() {
    for case in cases() {
        let alone = on_threads(1, || run(&case));
        assert!(alone.len() > 1 && alone.iter().flatten().any(|bits| *bits != 0), "{}", case.0);
        for threads in [2, 3] {
            assert!(alone == on_threads(threads, || run(&case)), "{} on {threads} threads", case.0);
        }
    }
}

#[test]
fn the_optimizer_gives_the_same_bits_on_any_number_of_threads() {
    let old = Moments { value: values(&[300, 400], 1), first: values(&[300, 400], 2), second: values(&[300, 400], 3).abs().unwrap() };
    let step = AdamWStep { lr: 1e-2, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.1, step: 3, grad_scale: 0.7 };
    let update = || {
        let new = adamw(&old, &values(&[300, 400], 4), step).unwrap();
        ([new.value, new.first, new.second].map(|t| bits(&t)), sum_of_squares(&old.value).unwrap().to_bits())
    };
    let alone = on_threads(1, update);
    assert!(alone == on_threads(2, update));
}
