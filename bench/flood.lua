-- One flood, as bots send it: wrk … -s flood.lua URL -- KIND ADDRESSES FIRST_NUMBER NUMBERS
-- They are behind the load balancer, each with an address of its own, and take turns.
local requests, n = {}, 0
local PATHS = {
  guesses = "/api/register", altcha = "/.sidecar/captcha/altcha/challenge", slider = "/.sidecar/captcha/slider/challenge",
}
local BODIES = {
  none = '{"phone":"+86%d"}',
  new = '{"phone":"+86%d"}',
  wrong = '{"phone":"+86%d","captcha":"bad-%06d"}',
  full = '{"phone":"+86%d","captcha":"good-%06d"}',
  guesses = '{"phone":"+86%d","code":"%06d"}',
  slider = '{"work":"%d-%06d"}',
}

function init(args)
  local kind, addresses, first, numbers = args[1], tonumber(args[2]), tonumber(args[3]), tonumber(args[4])
  for i = 1, addresses do
    local address = string.format("10.%d.%d.%d", i / 65536, i / 256 % 256, i % 256)
    local body = BODIES[kind] and string.format(BODIES[kind], first + i % numbers, i * 7919 % 1000000)
    requests[i] = wrk.format(body and "POST" or "GET", PATHS[kind] or "/api/sms", {
      ["Host"] = "www.example.com", ["Content-Type"] = "application/json", ["X-Forwarded-For"] = address,
      ["Connection"] = kind == "new" and "close" or nil,
    }, body)
  end
end

request = function()
  n = n % #requests + 1
  return requests[n]
end
