//! Fits a linear model whose coefficients cannot be negative, by least absolute RELATIVE deviations: 2 us predicted as 4 us is as wrong
//! as 2 ms predicted as 4 ms, and a point that was disturbed must not bend the model for all others.

/// What was observed once: the features, and what they came to. Features should be of one size, so scale them.
pub(crate) type Point<const N: usize> = ([f64; N], f64);

/// Reweighting steps; a fit settles within about ten.
const STEPS: usize = 50;
/// A deviation below this share counts as this one, so that no point gets all the weight.
const EXACT_ENOUGH: f64 = 0.005;

/// None where no point is finite and over 0.
pub(crate) fn fit<const N: usize>(points: &[Point<N>]) -> Option<[f64; N]> {
    let sound = |point: &&Point<N>| point.1.is_finite() && point.1 > 0.0 && point.0.iter().all(|x| x.is_finite());
    let points: Vec<Point<N>> = points.iter().filter(sound).copied().collect();
    if points.is_empty() {
        return None;
    }
    let mut weights = vec![1.0; points.len()];
    let mut coefficients = [0.0; N];
    for _ in 0..STEPS {
        coefficients = least_squares(&points, &weights);
        for (weight, point) in weights.iter_mut().zip(&points) {
            *weight = 1.0 / error(&coefficients, point).max(EXACT_ENOUGH);
        }
    }
    Some(coefficients)
}

/// Share by which the prediction of this point is off.
pub(crate) fn error<const N: usize>(coefficients: &[f64; N], (features, observed): &Point<N>) -> f64 {
    (dot(coefficients, features) / observed - 1.0).abs()
}

fn dot<const N: usize>(a: &[f64; N], b: &[f64; N]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The best coefficients that are not negative, by trying every subset of them: with so few, that is exact.
fn least_squares<const N: usize>(points: &[Point<N>], weights: &[f64]) -> [f64; N] {
    // Relative to the observation, the observation itself is 1: x' x and x' 1 are all that the solutions and their losses need.
    let (mut products, mut ones) = ([[0.0; N]; N], [0.0; N]);
    for ((features, observed), weight) in points.iter().zip(weights) {
        let x = features.map(|x| x / observed);
        for row in 0..N {
            for column in 0..N {
                products[row][column] += weight * x[row] * x[column];
            }
            ones[row] += weight * x[row];
        }
    }
    // Less the weights' sum, which is the same for all.
    let loss = |c: &[f64; N]| {
        let quadratic: f64 = (0..N).map(|row| c[row] * dot(&products[row], c)).sum();
        quadratic - 2.0 * dot(&ones, c)
    };
    let subsets = (1..1usize << N).filter_map(|subset| solve(&products, &ones, subset));
    let sound = subsets.filter(|c| c.iter().all(|&c| c >= 0.0));
    sound.min_by(|a, b| loss(a).total_cmp(&loss(b))).unwrap_or([0.0; N])
}

/// Gauss elimination over the variables in `subset` (a bit each); the others are 0. None where they cannot be told apart.
fn solve<const N: usize>(products: &[[f64; N]; N], ones: &[f64; N], subset: usize) -> Option<[f64; N]> {
    let used: Vec<usize> = (0..N).filter(|i| subset & (1 << i) != 0).collect();
    let row = |&r: &usize| used.iter().map(|&c| products[r][c]).chain([ones[r]]).collect();
    let mut rows: Vec<Vec<f64>> = used.iter().map(row).collect();
    for i in 0..rows.len() {
        let pivot = (i..rows.len()).max_by(|&a, &b| rows[a][i].abs().total_cmp(&rows[b][i].abs()))?;
        rows.swap(i, pivot);
        let head = rows[i].clone();
        if head[i].abs() <= 1e-12 * products[used[i]][used[i]].max(f64::MIN_POSITIVE) {
            return None;
        }
        for (_, row) in rows.iter_mut().enumerate().filter(|(other, _)| *other != i) {
            let share = row[i] / head[i];
            row.iter_mut().zip(&head).for_each(|(cell, above)| *cell -= share * above);
        }
    }
    let mut coefficients = [0.0; N];
    for (place, (&variable, row)) in used.iter().zip(&rows).enumerate() {
        coefficients[variable] = row.last()? / row[place];
    }
    Some(coefficients)
}
