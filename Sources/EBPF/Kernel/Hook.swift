import CEBPF

/// Where in the kernel a program runs.
public enum Hook: String, Sendable, CaseIterable {
  case connect4
  case connect6
  case sendmsg4
  case sendmsg6
  case recvmsg4
  case recvmsg6
  case getpeername4
  case getpeername6
  case postBind4 = "post_bind4"
  case postBind6 = "post_bind6"

  /// In the order of the list: what answers is there before what asks.
  static let order: [Hook] = [
    .recvmsg4, .recvmsg6, .getpeername4, .getpeername6, .sendmsg4, .sendmsg6, .connect4, .connect6, .postBind4,
    .postBind6,
  ]

  var number: Int32 {
    switch self {
    case .connect4: Int32(KALSAE_HOOK_CONNECT4.rawValue)
    case .connect6: Int32(KALSAE_HOOK_CONNECT6.rawValue)
    case .sendmsg4: Int32(KALSAE_HOOK_SENDMSG4.rawValue)
    case .sendmsg6: Int32(KALSAE_HOOK_SENDMSG6.rawValue)
    case .recvmsg4: Int32(KALSAE_HOOK_RECVMSG4.rawValue)
    case .recvmsg6: Int32(KALSAE_HOOK_RECVMSG6.rawValue)
    case .getpeername4: Int32(KALSAE_HOOK_GETPEERNAME4.rawValue)
    case .getpeername6: Int32(KALSAE_HOOK_GETPEERNAME6.rawValue)
    case .postBind4: Int32(KALSAE_HOOK_POST_BIND4.rawValue)
    case .postBind6: Int32(KALSAE_HOOK_POST_BIND6.rawValue)
    }
  }

  /// What the hook is for, and what happens without it.
  public var purpose: String {
    switch self {
    case .connect4, .connect6: "connections are made to endpoints"
    case .sendmsg4, .sendmsg6: "datagrams of sockets that are not connected"
    case .recvmsg4, .recvmsg6: "their answers come from the service"
    case .getpeername4, .getpeername6: "programs see the service as their peer"
    case .postBind4, .postBind6: "NodePorts are kept from other programs"
    }
  }

  /// The hook without which this one would do harm.
  var requirement: Hook? {
    switch self {
    case .sendmsg4: .recvmsg4
    case .sendmsg6: .recvmsg6
    default: nil
    }
  }
}

/// What this machine's kernel can do.
public struct KernelSupport: Sendable {
  /// Why a hook cannot be used, by hook; those that can are not here.
  public var missing: [Hook: String] = [:]
  /// Whether connections can be refused with the error that a reset gives (Linux 5.18).
  public var canRefuse: Bool

  /// Tries each hook with a program that does nothing.
  public static func probe() -> KernelSupport {
    var missing: [Hook: String] = [:]
    for hook in Hook.allCases {
      let result = Withheld.probe(hook.rawValue) { kalsae_bpf_probe_hook(hook.number) }
      if result < 0 { missing[hook] = errorText(-result) }
    }
    return KernelSupport(missing: missing, canRefuse: Withheld.probe("set_retval", kalsae_bpf_probe_set_retval) == 1)
  }

  /// Which of the wanted hooks are used, and why the others are not.
  public func plan(wanted: Set<Hook>) -> [Hook: HookPlan] {
    var plan: [Hook: HookPlan] = [:]
    for hook in Hook.order {
      if !wanted.contains(hook) {
        plan[hook] = .off("switched off")
      } else if let reason = missing[hook] {
        plan[hook] = .off("the kernel cannot: \(reason)")
      } else if let requirement = hook.requirement, plan[requirement] != .use {
        plan[hook] = .off("of no use without \(requirement.rawValue)")
      } else {
        plan[hook] = .use
      }
    }
    return plan
  }
}

/// Whether a hook is used, and why not.
public enum HookPlan: Sendable, Equatable {
  case use
  case off(String)
}
