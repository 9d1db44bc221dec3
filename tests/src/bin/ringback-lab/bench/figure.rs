//! A measured figure: all its runs, and their median.

use serde::Serialize;

#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Figure {
    pub(crate) median: f64,
    pub(crate) runs: Vec<f64>,
}

impl Figure {
    pub(crate) fn add(&mut self, value: f64) {
        self.runs.push(value);
        let mut sorted = self.runs.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        self.median = match sorted.len() % 2 {
            1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_or_between_the_middle_two() {
        let mut figure = Figure::default();
        for (value, median) in [(5.0, 5.0), (1.0, 3.0), (100.0, 5.0), (7.0, 6.0)] {
            figure.add(value);
            assert_eq!(figure.median, median, "{figure:?}");
        }
        assert_eq!(figure.runs, [5.0, 1.0, 100.0, 7.0]);
    }
}
