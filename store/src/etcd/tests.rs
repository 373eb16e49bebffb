//! The contract and what is etcd's own, against a real one.

use super::*;
use crate::contract::contract_tests;

contract_tests!(contract, peer::fresh().await);
