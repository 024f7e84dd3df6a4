extension InterfaceLimits {
  /// The limits of common EC2 instance types, by type (IPv4; default network card).
  ///
  /// From EC2's published table "IP addresses per network interface per instance type". Most families share one ladder of
  /// sizes; those that do not are written out.
  public static let ec2: [String: InterfaceLimits] = {
    var limits: [String: InterfaceLimits] = [:]
    func family(_ names: String, _ sizes: String) {
      for name in names.split(separator: " ") {
        for size in sizes.split(separator: " ") { limits["\(name).\(size)"] = ladder[String(size)]! }
      }
    }
    family("m4", "xlarge 2xlarge 4xlarge")
    family("c4", "large xlarge 2xlarge 4xlarge 8xlarge")
    family(
      "m5 m5a m5ad m5d m5dn m5n r5 r5a r5ad r5b r5d r5dn r5n",
      "large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge")
    family("c5 c5d", "large xlarge 2xlarge 4xlarge 9xlarge 12xlarge 18xlarge 24xlarge")
    family("c5n", "large xlarge 2xlarge 4xlarge 9xlarge 18xlarge")
    family("c5a c5ad", "large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge")
    family(
      "m6g m6gd c6g c6gd r6g r6gd m7g m7gd c7g c7gd r7g r7gd",
      "medium large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge")
    family("m6i m6id c6i c6id r6i r6id", "large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge 32xlarge")
    family("m6a c6a r6a", "large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge 32xlarge 48xlarge")
    family("m7i c7i r7i", "large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge 48xlarge")
    family("m7a c7a r7a", "medium large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge 32xlarge 48xlarge")
    family("m8g c8g r8g", "medium large xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge 48xlarge")
    func single(_ name: String, _ interfaces: Int, _ addresses: Int) {
      limits[name] = InterfaceLimits(interfaces: interfaces, addressesPerInterface: addresses)
    }
    single("m4.large", 2, 10)
    single("m4.10xlarge", 8, 30)
    single("m4.16xlarge", 8, 30)
    single("t2.nano", 2, 2)
    single("t2.micro", 2, 2)
    single("t2.small", 3, 4)
    single("t2.medium", 3, 6)
    single("t2.large", 3, 12)
    single("t2.xlarge", 3, 15)
    single("t2.2xlarge", 3, 15)
    for name in ["t3", "t3a", "t4g"] {
      single("\(name).nano", 2, 2)
      single("\(name).micro", 2, 2)
      single("\(name).small", name == "t3a" ? 2 : 3, 4)
      single("\(name).medium", 3, 6)
      single("\(name).large", 3, 12)
      single("\(name).xlarge", 4, 15)
      single("\(name).2xlarge", 4, 15)
    }
    return limits
  }()

  /// What most families have by size.
  private static let ladder: [String: InterfaceLimits] = {
    func limits(_ interfaces: Int, _ addresses: Int) -> InterfaceLimits {
      InterfaceLimits(interfaces: interfaces, addressesPerInterface: addresses)
    }
    return [
      "medium": limits(2, 4), "large": limits(3, 10), "xlarge": limits(4, 15), "2xlarge": limits(4, 15),
      "4xlarge": limits(8, 30), "8xlarge": limits(8, 30), "9xlarge": limits(8, 30), "12xlarge": limits(8, 30),
      "16xlarge": limits(15, 50), "18xlarge": limits(15, 50), "24xlarge": limits(15, 50), "32xlarge": limits(15, 50),
      "48xlarge": limits(15, 50),
    ]
  }()
}
