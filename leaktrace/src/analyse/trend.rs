//! Whether a series grows, and how fast.

/// The slope of a series, in units a second: the median of the slopes between all pairs of points
/// (Theil and Sen's estimator: a third of the points may be off without moving it). 0 for fewer
/// than two points.
pub fn slope(series: &[(f64, f64)]) -> f64 {
    let mut slopes = Vec::new();
    for (i, a) in series.iter().enumerate() {
        for b in series.iter().skip(i + 1) {
            let seconds = b.0 - a.0;
            if seconds > 0.0 {
                slopes.push((b.1 - a.1) / seconds);
            }
        }
    }
    slopes.sort_by(f64::total_cmp);
    let middle = slopes.len() / 2;
    match (slopes.get(middle), slopes.get(middle.wrapping_sub(1))) {
        (Some(upper), Some(lower)) if slopes.len() % 2 == 0 => (upper + lower) / 2.0,
        (Some(median), _) => *median,
        (None, _) => 0.0,
    }
}

/// The standard score of Mann and Kendall's test for a trend: how much more often later points
/// are higher than earlier ones than chance would have it. Above 2.33, chance alone does that in
/// one of a hundred series. 0 for fewer than three points, or a constant series.
pub fn trend_score(series: &[(f64, f64)]) -> f64 {
    let n = series.len() as f64;
    if n < 3.0 {
        return 0.0;
    }
    let mut s = 0.0;
    for (i, a) in series.iter().enumerate() {
        for b in series.iter().skip(i + 1) {
            s += match b.1.total_cmp(&a.1) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.0,
                std::cmp::Ordering::Less => -1.0,
            };
        }
    }
    let mut values: Vec<u64> = series.iter().map(|(_, value)| value.to_bits()).collect();
    values.sort_unstable();
    let ties: f64 = values
        .chunk_by(|a, b| a == b)
        .map(|tie| tie.len() as f64)
        .map(|t| t * (t - 1.0) * (2.0 * t + 5.0))
        .sum();
    let variance = (n * (n - 1.0) * (2.0 * n + 5.0) - ties) / 18.0;
    if variance <= 0.0 || s == 0.0 { 0.0 } else { (s - f64::signum(s)) / variance.sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: &[f64]) -> Vec<(f64, f64)> {
        values.iter().enumerate().map(|(i, v)| (i as f64 * 0.5, *v)).collect()
    }

    #[test]
    fn a_line_has_its_slope_even_with_outliers() {
        assert_eq!(slope(&series(&[0.0, 5.0, 10.0, 15.0])), 10.0);
        assert_eq!(slope(&series(&[0.0, 5.0, 10.0, 900.0, 20.0, 25.0, 30.0])), 10.0);
        assert_eq!(slope(&series(&[7.0])), 0.0);
        assert_eq!(slope(&[]), 0.0);
    }

    #[test]
    fn a_trend_is_told_from_noise() {
        let rising: Vec<f64> = (0..10).map(f64::from).collect();
        assert!(trend_score(&series(&rising)) > 2.33);
        let noise = [5.0, 3.0, 6.0, 4.0, 5.0, 3.0, 6.0, 4.0, 5.0, 4.0];
        assert!(trend_score(&series(&noise)).abs() < 1.0);
        let constant = [5.0; 10];
        assert_eq!(trend_score(&series(&constant)), 0.0);
        let falling: Vec<f64> = (0..10).rev().map(f64::from).collect();
        assert!(trend_score(&series(&falling)) < -2.33);
    }
}
