//! A measured curve: linear between its points, and flat beyond them.

use serde::Deserialize;

/// The points of a curve, in rising order of x.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "Vec<[f64; 2]>")]
pub(crate) struct Curve(Vec<[f64; 2]>);

impl Curve {
    pub(crate) fn points(&self) -> &[[f64; 2]] {
        &self.0
    }

    pub(crate) fn at(&self, x: f64) -> f64 {
        let after = self.0.partition_point(|[from, _]| *from <= x);
        let before = after.checked_sub(1).and_then(|index| self.0.get(index));
        match (before, self.0.get(after)) {
            (Some([x0, y0]), Some([x1, y1])) => y0 + (y1 - y0) * (x - x0) / (x1 - x0),
            (Some([_, y]), None) | (None, Some([_, y])) => *y,
            (None, None) => 0.0,
        }
    }
}

impl TryFrom<Vec<[f64; 2]>> for Curve {
    type Error = String;

    fn try_from(points: Vec<[f64; 2]>) -> Result<Self, String> {
        let is_number = |number: &f64| number.is_finite() && *number >= 0.0;
        if points.is_empty() || !points.iter().flatten().all(is_number) {
            return Err("a curve needs at least one point [x, y], of finite numbers that are 0 or above".to_owned());
        }
        if !points.is_sorted_by(|before, after| before[0] < after[0]) {
            return Err("the points of a curve need rising values of x".to_owned());
        }
        Ok(Self(points))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_linear_between_its_points_and_flat_beyond_them() {
        let curve = Curve::try_from(vec![[10.0, 1.0], [20.0, 3.0]]).unwrap();
        assert_eq!([0.0, 10.0, 15.0, 20.0, 99.0].map(|x| curve.at(x)), [1.0, 1.0, 2.0, 3.0, 3.0]);
    }

    #[test]
    fn a_curve_without_order_or_numbers_is_rejected() {
        for wrong in [vec![], vec![[1.0, f64::NAN]], vec![[-1.0, 2.0]], vec![[2.0, 1.0], [2.0, 1.0]]] {
            assert!(Curve::try_from(wrong).is_err());
        }
    }
}
