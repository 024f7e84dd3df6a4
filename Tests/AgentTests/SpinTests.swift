import Testing

@testable import Agent

@Suite("How long a worker looks on")
struct SpinTests {
  private static let short: UInt64 = 20_000

  /// What is left after so many sleeps of 20 µs, one each 300 µs.
  private func spin(after sleeps: Int) -> Spin {
    var spin = Spin()
    for number in 0..<sleeps { spin.slept(SpinTests.short, until: UInt64(number) * 300_000) }
    return spin
  }

  @Test("longer by and by where packets come soon after the worker has gone to sleep, and the least where they do not")
  func grows() {
    #expect(Spin().length == Spin.least)
    #expect(spin(after: 1).length == 2 * Spin.least)
    #expect(spin(after: 2).length == Spin.most)
    var other = spin(after: 2)
    other.slept(Spin.most, until: 1_000_000)
    #expect(other.length == Spin.least)
  }

  @Test("not at all for some time where the longest is in vain four times running, and then from the least on")
  func rests() {
    #expect(spin(after: 5).length == Spin.most)
    var resting = spin(after: 6)
    #expect(resting.length == 0)
    resting.slept(SpinTests.short, until: 40_000_000)
    #expect(resting.length == 0)
    resting.slept(SpinTests.short, until: 60_000_000)
    #expect(resting.length == Spin.least)
  }

  @Test("the rest is longer each time, up to 800 ms, and short again after packets came while the worker looked on")
  func restsLonger() {
    var spin = spin(after: 6)
    var now: UInt64 = 1_800_000
    func rest() -> UInt64 {
      let begun = now
      while spin.length == 0 {
        now += 1_000_000
        spin.slept(SpinTests.short, until: now)
      }
      return (now - begun) / 1_000_000
    }
    func tire() {
      while spin.length > 0 {
        now += 300_000
        spin.slept(SpinTests.short, until: now)
      }
    }
    var rests: [UInt64] = []
    for _ in 0..<6 {
      rests.append(rest())
      tire()
    }
    #expect(rests.map { $0 / 10 * 10 } == [50, 100, 200, 400, 800, 800])
    #expect(rest() == 800)
    spin.found()
    tire()
    #expect(rest() == 50)
  }

  @Test("packets that come while the worker looks on show that it is not in vain")
  func found() {
    var spin = spin(after: 5)
    spin.found()
    for number in 6..<9 { spin.slept(SpinTests.short, until: UInt64(number) * 300_000) }
    #expect(spin.length == Spin.most)
  }
}
