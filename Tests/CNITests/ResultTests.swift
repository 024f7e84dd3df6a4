import Addresses
import CNI
import Testing

@Suite("CNI results")
struct ResultTests {
  private var result: CNIResult {
    var result = CNIResult()
    result.interfaces = [
      .init(name: "kal0123", mac: "ee:ee:ee:ee:ee:ee", mtu: 1450),
      .init(name: "eth0", mac: "99:88:77:66:55:44", mtu: 1450, sandbox: "/var/run/netns/blue"),
    ]
    result.addresses = [
      .init(IPAddress("10.1.0.5")!, prefixLength: 32, gateway: IPAddress("169.254.1.1"), interface: 1),
      .init(IPAddress("fd00::5")!, prefixLength: 128, interface: 1),
    ]
    var route = CNIResult.Route(IPPrefix("0.0.0.0/0")!, gateway: IPAddress("169.254.1.1"))
    route.mtu = 1400
    route.scope = 0
    result.routes = [route, .init(IPPrefix("169.254.1.1/32")!)]
    return result
  }

  @Test("CNI-8: the types of each version: 1.1.0 has MTUs, before 1.0.0 there is ips[].version")
  func versions() throws {
    #expect(
      result.json(version: .newest).serialized
        == #"{"cniVersion":"1.1.0","interfaces":[{"name":"kal0123","mac":"ee:ee:ee:ee:ee:ee","mtu":1450},"#
        + #"{"name":"eth0","mac":"99:88:77:66:55:44","mtu":1450,"sandbox":"/var/run/netns/blue"}],"#
        + #""ips":[{"interface":1,"address":"10.1.0.5/32","gateway":"169.254.1.1"},{"interface":1,"address":"fd00::5/128"}],"#
        + #""routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1","mtu":1400,"scope":0},{"dst":"169.254.1.1/32"}]}"#)
    #expect(
      result.json(version: CNIVersion(1, 0, 0)).serialized
        == #"{"cniVersion":"1.0.0","interfaces":[{"name":"kal0123","mac":"ee:ee:ee:ee:ee:ee"},"#
        + #"{"name":"eth0","mac":"99:88:77:66:55:44","sandbox":"/var/run/netns/blue"}],"#
        + #""ips":[{"interface":1,"address":"10.1.0.5/32","gateway":"169.254.1.1"},{"interface":1,"address":"fd00::5/128"}],"#
        + #""routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"},{"dst":"169.254.1.1/32"}]}"#)
    for version in [CNIVersion(0, 3, 0), CNIVersion(0, 3, 1), CNIVersion(0, 4, 0)] {
      let json = result.json(version: version)
      #expect(json["cniVersion"]?.text == version.description)
      #expect(json["ips"]?.elements?.map { $0["version"]?.text } == ["4", "6"])
      #expect(json["interfaces"]?.elements?.allSatisfy { $0["mtu"] == nil } == true)
      #expect(json["dns"] == .object([]))
    }
  }

  @Test("what is written is read again, in every version")
  func roundTrip() throws {
    for version in CNIVersion.supported {
      let json = result.json(version: version)
      let again = try CNIResult(json, version: version, of: "prevResult")
      #expect(again.json(version: version) == json)
      #expect(again.addresses == result.addresses)
    }
    #expect(try CNIResult(result.json(version: .newest), version: .newest, of: "prevResult") == result)
  }

  @Test("CNI-1: VERSION's answer")
  func version() {
    #expect(
      CNIVersion.report(asked: "0.4.0").serialized
        == #"{"cniVersion":"0.4.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}"#)
    #expect(CNIVersion.report(asked: nil)["cniVersion"]?.text == "1.1.0")
  }
}
