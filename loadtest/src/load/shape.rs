//! The number of payloads in a request.

use std::fmt;
use std::str::FromStr;

/// The mix, which repeats: 14 requests of 1 payload, 5 of 10 and 1 of 100. Most requests are small, and most payloads (100
/// of 164) are in large ones, as from devices that send each reading, and now and then what they kept while offline.
const MIX: [usize; 20] = [1, 10, 1, 1, 1, 10, 1, 1, 1, 100, 1, 10, 1, 1, 1, 10, 1, 1, 1, 10];

/// Payloads in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// The same number in each.
    Even(usize),
    /// 1, 10 or 100, in a fixed order.
    Mixed,
}

impl Shape {
    /// The number of payloads in the request of this number, from 0.
    pub fn payloads(self, request: u64) -> usize {
        match self {
            Self::Even(count) => count,
            Self::Mixed => MIX[(request % MIX.len() as u64) as usize],
        }
    }

    /// The mean number of payloads in a request.
    pub fn mean(self) -> f64 {
        match self {
            Self::Even(count) => count as f64,
            Self::Mixed => MIX.iter().sum::<usize>() as f64 / MIX.len() as f64,
        }
    }

    /// Whether any request has this number of payloads.
    pub fn has(self, count: usize) -> bool {
        match self {
            Self::Even(each) => count == each,
            Self::Mixed => MIX.contains(&count),
        }
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "s" => Ok(Self::Even(1)),
            "m" => Ok(Self::Even(10)),
            "l" => Ok(Self::Even(100)),
            "mixed" => Ok(Self::Mixed),
            _ => {
                Err(format!("{text:?} is not a shape: expected s, m, l or mixed, for 1, 10, 100 payloads or all three"))
            }
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Even(count) => write!(f, "{count}"),
            Self::Mixed => f.write_str("mixed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mix_has_its_shares_and_the_letters_their_numbers() {
        let requests: Vec<usize> = (0..200).map(|request| Shape::Mixed.payloads(request)).collect();
        let of = |size| requests.iter().filter(|count| **count == size).count();
        assert_eq!((of(1), of(10), of(100)), (140, 50, 10));
        assert_eq!(requests.iter().sum::<usize>() as f64 / 200.0, Shape::Mixed.mean());
        assert!(requests.iter().all(|count| Shape::Mixed.has(*count)) && !Shape::Mixed.has(2));
        for (text, count) in [("s", 1), ("m", 10), ("l", 100)] {
            let shape: Shape = text.parse().unwrap();
            assert_eq!((shape.payloads(7), shape.mean(), shape.has(count + 1)), (count, count as f64, false));
        }
        assert!(["", "S", "xl", "10"].iter().all(|wrong| wrong.parse::<Shape>().is_err()));
    }
}
