import Reference
import Testing

@Suite struct SeededGeneratorTests {
  @Test("a seed brings the same numbers back, and they are those of SplitMix64")
  func seeded() {
    var a = SeededGenerator(seed: 1_234_567)
    // The published test vector of the algorithm.
    #expect(a.next() == 6_457_827_717_110_365_317)
    #expect(a.next() == 3_203_168_211_198_807_973)
    #expect(a.next() == 9_817_491_932_198_370_423)
  }
}
