//! Counts words: the smallest stateful operator. Each word's count is on the shard that owns the word, and the operator is shipped there.
//!
//! `cargo run --release -p siltstone --example count_words -- some words and some more words`

use siltstone::state::{Descriptor, ValueState, partition_of};
use siltstone::{Durability, Engine, Options, Result};

fn main() -> Result<()> {
    let directory = std::env::temp_dir().join("siltstone-count-words");
    let counts = Descriptor::<ValueState<String, u64>>::new("counts");
    let options = Options::at(&directory).shards(2).durability(Durability::Sync).state(&counts);
    let engine = Engine::open(options)?;
    let counts = counts.bind(&engine)?;

    for word in std::env::args().skip(1) {
        let counts = counts.clone();
        let (key, operator_key) = (partition_of(&word), word.clone());
        let count = engine.block_on(engine.on_shard(&key, move |shard| async move {
            let count = counts.get(&shard, &operator_key).await?.unwrap_or_default() + 1;
            counts.set(&shard, &operator_key, &count).await?;
            Ok::<u64, siltstone::Error>(count)
        }))??;
        println!("{word}: {count}");
    }
    engine.close_blocking()
}
