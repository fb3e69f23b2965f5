//! How many payloads a request has.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// The mix, over and over: 14 requests of 1 payload, 5 of 10 and 1 of 100, 8.2 on average. Most devices report reading
/// by reading, some gather a few, and now and then one hands in what it kept while it was away; so that most requests
/// are small, and most payloads (100 of 164) come in large ones.
const MIX: [Size; 20] = {
    use Size::{Large as L, Medium as M, Small as S};
    [S, M, S, S, S, M, S, S, S, L, S, M, S, S, S, M, S, S, S, M]
};

/// Payloads in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Shape {
    /// As many in each.
    Even(usize),
    /// Of all three sizes, 1, 10 and 100, in turn.
    Mixed,
}

#[derive(Debug, Clone, Copy)]
enum Size {
    Small = 1,
    Medium = 10,
    Large = 100,
}

impl Shape {
    /// The number of payloads in the request of this number, from 0.
    pub fn payloads(self, request: u64) -> usize {
        match self {
            Self::Even(count) => count,
            Self::Mixed => MIX[(request % MIX.len() as u64) as usize] as usize,
        }
    }

    /// The mean number of payloads in a request.
    pub fn mean(self) -> f64 {
        match self {
            Self::Even(count) => count as f64,
            Self::Mixed => MIX.iter().map(|size| *size as usize as f64).sum::<f64>() / MIX.len() as f64,
        }
    }

    /// Whether any request has this number of payloads.
    pub fn has(self, count: usize) -> bool {
        match self {
            Self::Even(each) => count == each,
            Self::Mixed => MIX.iter().any(|size| count == *size as usize),
        }
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "s" => Ok(Self::Even(Size::Small as usize)),
            "m" => Ok(Self::Even(Size::Medium as usize)),
            "l" => Ok(Self::Even(Size::Large as usize)),
            "mixed" => Ok(Self::Mixed),
            _ => Err(format!("{text:?} is no shape: expected s, m, l or mixed, for 1, 10, 100 payloads or all three")),
        }
    }
}

impl TryFrom<String> for Shape {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
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
    fn the_mix_is_what_it_says() {
        let requests: Vec<usize> = (0..200).map(|request| Shape::Mixed.payloads(request)).collect();
        let of = |size| requests.iter().filter(|count| **count == size).count();
        assert_eq!((of(1), of(10), of(100)), (140, 50, 10));
        assert_eq!(requests.iter().sum::<usize>() as f64 / 200.0, Shape::Mixed.mean());
        assert!(requests.iter().all(|count| Shape::Mixed.has(*count)));
        assert!(!Shape::Mixed.has(2));
    }

    #[test]
    fn the_letters_stand_for_one_ten_and_a_hundred() {
        for (text, count) in [("s", 1), ("m", 10), ("l", 100)] {
            let shape: Shape = text.parse().unwrap();
            assert_eq!((shape.payloads(7), shape.mean()), (count, count as f64));
            assert!(shape.has(count) && !shape.has(count + 1));
        }
        for wrong in ["", "S", "xl", "10"] {
            assert!(wrong.parse::<Shape>().unwrap_err().contains("expected s, m, l or mixed"), "{wrong}");
        }
    }
}
