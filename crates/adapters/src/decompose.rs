//! Leading parts of a matrix: singular vectors, and the beginning of a QR decomposition. In f64.

use crate::error::Result;
use peftbench_ops::{DType, Tensor};
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

/// Iterations after which the leading subspace is taken as it is. Each shrinks the error by (σ_p / σ_r)², where p is the block's width.
const MAX_ITERATIONS: usize = 300;

/// The leading singular vectors and values of a matrix [m, n].
pub(crate) struct Leading {
    /// [m, rank], orthonormal columns.
    pub left: Tensor,
    /// [rank], falling.
    pub values: Tensor,
    /// [rank, n], orthonormal rows.
    pub right: Tensor,
}

/// The `rank` leading singular triples, by subspace iteration with a block wider than the rank (Halko, Martinsson and Tropp, 2011, 4.5) and
/// a Rayleigh-Ritz step each time, until W v = σ u holds to 1e-7 of the largest σ.
pub(crate) fn leading_singular(matrix: &Tensor, rank: usize, random: &mut impl Rng) -> Result<Leading> {
    let matrix = matrix.to_dtype(DType::F64)?.contiguous()?;
    let (m, n) = matrix.dims2()?;
    let width = (2 * rank + 8).min(m).min(n);
    let transposed = matrix.t()?;
    let start: Vec<f64> = (0..n * width).map(|_| StandardNormal.sample(random)).collect();
    let mut image = matrix.matmul(&Tensor::from_vec(start, (n, width), matrix.device())?)?;
    for iteration in 0.. {
        let basis = orthonormal(&image)?;
        // Rows of Qᵀ W, whose singular triples are those of W within the subspace.
        let projected = transposed.matmul(&basis)?;
        let (values, vectors) = symmetric_eigen(&projected.t()?.matmul(&projected)?)?;
        let sigma: Vec<f64> = values.iter().map(|value| value.max(0.0).sqrt()).collect();
        let inverse: Vec<f64> = sigma.iter().map(|s| if *s > 1e-12 * sigma[0] { 1.0 / s } else { 0.0 }).collect();
        let left = basis.matmul(&vectors)?;
        let right = projected.matmul(&vectors)?.broadcast_mul(&Tensor::new(inverse, matrix.device())?)?;
        image = matrix.matmul(&right)?;
        let values = Tensor::new(sigma.as_slice(), matrix.device())?;
        let residual = (&image - left.broadcast_mul(&values)?)?.narrow(1, 0, rank)?.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt();
        if residual <= 1e-7 * sigma[0] || iteration == MAX_ITERATIONS {
            return Ok(Leading {
                left: left.narrow(1, 0, rank)?.to_dtype(DType::F32)?.contiguous()?,
                values: values.narrow(0, 0, rank)?.to_dtype(DType::F32)?,
                right: right.narrow(1, 0, rank)?.t()?.to_dtype(DType::F32)?.contiguous()?,
            });
        }
    }
    unreachable!("the loop above ends at its last iteration")
}

/// The first `rank` columns of Q in W = Q R, [m, rank], with a positive diagonal of R.
pub(crate) fn leading_basis(matrix: &Tensor, rank: usize) -> Result<Tensor> {
    let columns = matrix.narrow(1, 0, rank)?.to_dtype(DType::F64)?.contiguous()?;
    Ok(orthonormal(&columns)?.to_dtype(DType::F32)?)
}

/// The columns made orthonormal, in order, by Gram and Schmidt's procedure, twice for precision. A column that depends on those before
/// becomes zero.
fn orthonormal(matrix: &Tensor) -> Result<Tensor> {
    let (m, n) = matrix.dims2()?;
    let mut columns: Vec<Vec<f64>> = matrix.t()?.to_vec2()?;
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for j in 0..n {
        let (done, rest) = columns.split_at_mut(j);
        let column = &mut rest[0];
        let before = dot(column, column).sqrt();
        for other in done.iter().chain(done.iter()) {
            let along = dot(column, other);
            column.iter_mut().zip(other).for_each(|(value, o)| *value -= along * o);
        }
        let norm = dot(column, column).sqrt();
        let factor = if norm > 1e-12 * before { 1.0 / norm } else { 0.0 };
        column.iter_mut().for_each(|value| *value *= factor);
    }
    Ok(Tensor::from_vec(columns.concat(), (n, m), matrix.device())?.t()?.contiguous()?)
}

/// Eigenvalues, falling, and eigenvectors, as columns, of a small symmetric matrix, by cyclic Jacobi rotations.
fn symmetric_eigen(matrix: &Tensor) -> Result<(Vec<f64>, Tensor)> {
    let n = matrix.dim(0)?;
    let mut a: Vec<Vec<f64>> = matrix.to_vec2()?;
    let mut v: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    let total: f64 = a.iter().flatten().map(|x| x * x).sum();
    for _ in 0..60 {
        let off: f64 = (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a[i][j] * a[i][j]).sum();
        if off <= 1e-30 * total {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if a[p][q] == 0.0 {
                    continue;
                }
                let theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let (c, s) = (1.0 / (t * t + 1.0).sqrt(), t / (t * t + 1.0).sqrt());
                for row in a.iter_mut().chain(v.iter_mut()) {
                    (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
                }
                // p is above q.
                let (above, below) = a.split_at_mut(q);
                for (x, y) in above[p].iter_mut().zip(&mut below[0]) {
                    (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
                }
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| a[j][j].total_cmp(&a[i][i]));
    let vectors: Vec<f64> = v.iter().flat_map(|row| order.iter().map(|&j| row[j])).collect();
    Ok((order.iter().map(|&j| a[j][j]).collect(), Tensor::from_vec(vectors, (n, n), matrix.device())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use peftbench_spec::seed;

    fn random(m: usize, n: usize) -> Tensor {
        let mut stream = seed::stream(3, "matrix");
        let values: Vec<f32> = (0..m * n).map(|_| StandardNormal.sample(&mut stream)).collect();
        Tensor::from_vec(values, (m, n), &peftbench_ops::device::host()).unwrap()
    }

    fn norm(tensor: &Tensor) -> f64 {
        f64::from(tensor.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()).sqrt()
    }

    /// The singular values of a Hilbert matrix of order 5, from the literature (MATLAB's `svd(hilb(5))`).
    #[test]
    fn the_singular_values_of_a_hilbert_matrix() {
        let values: Vec<f32> = (0..25).map(|i| 1.0 / (i / 5 + i % 5 + 1) as f32).collect();
        let matrix = Tensor::from_vec(values, (5, 5), &peftbench_ops::device::host()).unwrap();
        let found = leading_singular(&matrix, 3, &mut seed::stream(1, "x")).unwrap().values.to_vec1::<f32>().unwrap();
        for (found, expected) in found.iter().zip([1.567_050_7, 0.208_534_22, 0.011_407_492]) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn leading_triples_are_orthonormal_and_leave_the_rest() {
        for (m, n, rank) in [(40, 70, 6), (70, 40, 6), (12, 12, 12), (5, 9, 1)] {
            let matrix = random(m, n);
            let Leading { left, values, right } = leading_singular(&matrix, rank, &mut seed::stream(1, "x")).unwrap();
            let eye = Tensor::eye(rank, DType::F32, &peftbench_ops::device::host()).unwrap();
            assert!(norm(&(left.t().unwrap().matmul(&left).unwrap() - &eye).unwrap()) < 1e-5);
            assert!(norm(&(right.matmul(&right.t().unwrap()).unwrap() - &eye).unwrap()) < 1e-5);
            let held = left.broadcast_mul(&values).unwrap().matmul(&right).unwrap();
            let rest = (&matrix - &held).unwrap();
            // Pythagoras, and no direction of the rest is longer than the last value taken.
            assert!((norm(&rest).powi(2) + norm(&values).powi(2) - norm(&matrix).powi(2)).abs() < 1e-3 * norm(&matrix).powi(2));
            if rank < m.min(n) {
                let next = leading_singular(&rest, 1, &mut seed::stream(2, "x")).unwrap().values.to_vec1::<f32>().unwrap()[0];
                assert!(next <= values.to_vec1::<f32>().unwrap()[rank - 1] * 1.0001, "{next} {values}");
            }
        }
    }

    #[test]
    fn a_basis_spans_the_first_columns() {
        let matrix = random(9, 7);
        let q = leading_basis(&matrix, 3).unwrap();
        let columns = matrix.narrow(1, 0, 3).unwrap();
        let r = q.t().unwrap().matmul(&columns).unwrap();
        assert!(norm(&(q.matmul(&r).unwrap() - &columns).unwrap()) < 1e-5);
        let r = r.to_vec2::<f32>().unwrap();
        assert!(r[1][0].abs() < 1e-5 && r[2][0].abs() < 1e-5 && r[2][1].abs() < 1e-5 && r[0][0] > 0.0, "{r:?}");
    }
}
