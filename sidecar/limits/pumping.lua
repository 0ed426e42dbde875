-- Is this send one of many that nobody will verify? And what becomes of one that was counted. The rules and their terms
-- are pumping.py's, whose Book has a method of each name here; the clock is the store's, or the caller's where it says.
--
-- Call    EVALSHA pumping <n> KEYS ARGV
-- KEYS[1] number   hash: "verified" when it was last, milliseconds since the epoch; "near" the network and country of the
--                  send that was, and after a space when one was refused last (a field of its own would be an entry to the
--                  version before); "last" the number of its last entry; and each entry by its number:
--                  "at day country price suspected counter=amount …"
-- KEYS[2] money    hash: "day" days since the epoch; "total" and each "in:COUNTRY": what it has cost, millionths;
--                  "alarmed:…" 1 once it was told that this is over its budget
-- ARGV[1] what is asked: "judge", "verified", "give_back" or "paid"
-- ARGV[2] now, milliseconds since the epoch; 0: by the store's clock
-- ARGV[3] what all these keys begin with; counters that an entry names are found by it, and carry the same tag
-- ARGV[4] period, milliseconds
--
-- judge     KEYS[3] ip       hash: "*" for all countries, and each country -> a counter
--           KEYS[4] near     string: the counter of a network and country
--           KEYS[5..] counters; none where only the budget looks: then no KEYS[3] and [4] either
--           A counter is "TAT window verified verified-before", TAT in milliseconds since the epoch, 0 when empty
--           ARGV[5] enforce       "1": a broken rule refuses; "0": it is told
--           ARGV[6] the same for a budget
--           ARGV[7] country
--           ARGV[8] price, millionths
--           ARGV[9], [10] the budgets of a day, in all and of the country, millionths; -1 for none
--           ARGV[11] how long a verified number is known, milliseconds
--           ARGV[12] with so many open sends it does not pass by that
--           ARGV[13] most entries of a number
--           ARGV[14] how long a number that was refused is remembered, milliseconds
--           ARGV[15] ratio, thousandths
--           ARGV[16] countries of an address
--           ARGV[17] floor of an address
--           ARGV[18..] three a counter: floor; "1" if it counts numbers, "0" for messages; "1" if a network passes it
--           Returns now; the entry's number, 0 when refused; what it passed by (0 nothing, 1 number, 2 network,
--           3 reserve, 4 again);
--           what the day has cost, in all and in the country; 1 where a budget is gone over first today, for both;
--           and three for each broken rule: its number in pumping.RULES, open, threshold
-- verified  Returns now, the open sends, and how many of them were suspected
-- give_back ARGV[5] entry. Returns now, and 1 if it was there, else 0
-- paid      ARGV[5] day, ARGV[6] country, ARGV[7] how much more it cost. Returns now

local now, base, period = tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local DAY = 86400000
local KNOWN_WINDOWS = 7  -- NEAR_PERIODS
local day = math.floor(now / DAY)

local function whole(number)
  return string.format('%.0f', number)  -- because a double prints as 1.7e+15
end

-- Counters…

local function read(text)
  local tat, at, verified, before = string.match(text or '0 0 0 0', '(%S+) (%S+) (%S+) (%S+)')
  return {tat = tonumber(tat), window = tonumber(at), verified = tonumber(verified), before = tonumber(before)}
end

-- A name with a slash is a field of a hash.
local function load(name)
  local key, field = string.match(name, '^(.-)/(.+)$')
  return read(key and redis.call('HGET', base .. key, field) or (not key and redis.call('GET', base .. name)) or nil)
end

-- How full a counter may become by what passed so.
local function most_of(of, passed_by)
  if passed_by == 3 then
    return of + math.floor(of / 2)  -- RESERVE_PART
  elseif passed_by == 4 then
    return of + math.floor(of / 4)  -- AGAIN_PART
  end
  return of
end

-- A network's counters have a longer period.
local function period_of(name)
  return string.sub(name, 1, 5) == 'near:' and 7 * period or period
end

local function save(name, counter)
  local key, field = string.match(name, '^(.-)/(.+)$')
  -- Until it is empty, and nothing of it was lately; of an address in all countries, until it is not known any more.
  local windows = field == '*' and KNOWN_WINDOWS + 1 or 2
  local left = math.max(counter.tat, (counter.window + windows) * period_of(name)) - now
  if counter.verified + counter.before == 0 then
    left = counter.tat - now
  end
  if left <= 0 then
    if key then
      redis.call('HDEL', base .. key, field)
    else
      redis.call('DEL', base .. name)
    end
    return
  end
  local text = whole(counter.tat) .. ' ' .. whole(counter.window) .. ' ' .. whole(counter.verified) .. ' '
    .. whole(counter.before)
  if key then
    redis.call('HSET', base .. key, field, text)
    redis.call('PEXPIRE', base .. key, whole(math.max(left, redis.call('PTTL', base .. key))))
  else
    redis.call('SET', base .. name, text, 'PX', whole(left))
  end
end

local function lately(counter, of)
  local window, current, before = math.floor(now / of), counter.verified, counter.before
  if counter.window == window - 1 then
    current, before = 0, current
  elseif counter.window < window then
    current, before = 0, 0
  end
  return current + math.floor(before * (of - now % of) / of)
end

local function level(counter, of)
  return math.min(math.max(counter.tat - now, 0), most_of(of, 3))
end

local function verify(counter, of)
  local window = math.floor(now / of)
  if counter.window == window - 1 then
    counter.verified, counter.before = 0, counter.verified
  elseif counter.window < window then
    counter.verified, counter.before = 0, 0
  end
  counter.window = math.max(counter.window, window)
  counter.verified = counter.verified + 1
end

local function take_out(counter, amount)
  counter.tat = counter.tat - amount
  if counter.tat <= now then
    counter.tat = 0
  end
end

-- Money…

local function turn_day()
  if day > tonumber(redis.call('HGET', KEYS[2], 'day') or 0) then
    redis.call('DEL', KEYS[2])
    redis.call('HSET', KEYS[2], 'day', whole(day))
    redis.call('PEXPIRE', KEYS[2], whole(2 * DAY))
  end
end

local function spend(country, more)
  if more == 0 then
    return
  end
  redis.call('HINCRBY', KEYS[2], 'total', whole(more))
  redis.call('HINCRBY', KEYS[2], 'in:' .. country, whole(more))
end

local function pay(of_day, country, more)
  turn_day()
  if of_day == tonumber(redis.call('HGET', KEYS[2], 'day')) then
    spend(country, more)
  end
end

-- Entries…

local function entry_of(text)
  local at, of_day, country, price, suspected, rest = string.match(text, '^(%S+) (%S+) (%S+) (%S+) (%S+)(.*)$')
  local filled = {}
  for name, amount in string.gmatch(rest, '(%S+)=(%d+)') do
    filled[#filled + 1] = {name, tonumber(amount)}
  end
  return {at = tonumber(at), day = tonumber(of_day), country = country, price = tonumber(price),
    suspected = suspected == '1', filled = filled}
end

-- What is known of the number: when it was verified and refused, its last entry's number, and its living entries, oldest
-- first.
local function number()
  local verified, refused, near, last, entries = 0, 0, '', 0, {}
  local flat = redis.call('HGETALL', KEYS[1])
  for i = 1, #flat, 2 do
    if flat[i] == 'verified' then
      verified = tonumber(flat[i + 1])
    elseif flat[i] == 'near' then
      local when
      near, when = string.match(flat[i + 1], '^(%S*) ?(%d*)$')
      refused = tonumber(when) or 0
    elseif flat[i] == 'last' then
      last = tonumber(flat[i + 1])
    else
      local entry = entry_of(flat[i + 1])
      if entry.at + period > now then
        entry.number = tonumber(flat[i])
        entries[#entries + 1] = entry
      else
        redis.call('HDEL', KEYS[1], flat[i])
      end
    end
  end
  table.sort(entries, function(one, other) return one.number < other.number end)
  return verified, refused, near, last, entries
end

if ARGV[1] == 'paid' then
  pay(tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7]))
  return {now}
end

if ARGV[1] == 'give_back' then
  local text = redis.call('HGET', KEYS[1], ARGV[5])
  if not text then
    return {now, 0}
  end
  redis.call('HDEL', KEYS[1], ARGV[5])
  local entry = entry_of(text)
  for _, filled in ipairs(entry.filled) do
    local counter = load(filled[1])
    take_out(counter, filled[2])
    save(filled[1], counter)
  end
  pay(entry.day, entry.country, -entry.price)
  return {now, 1}
end

if ARGV[1] == 'verified' then
  local _, _, _, last, entries = number()
  if #entries == 0 then
    return {now, 0, 0}
  end
  local names, seen, suspected, near = {}, {}, 0, ''
  for _, entry in ipairs(entries) do
    suspected = suspected + (entry.suspected and 1 or 0)
    near = ''
    for _, filled in ipairs(entry.filled) do
      local name = filled[1]
      if string.sub(name, 1, 5) == 'near:' then
        near = name
      end
      if not seen[name] then
        seen[name] = load(name)
        names[#names + 1] = name
      end
      take_out(seen[name], filled[2])
    end
  end
  for _, name in ipairs(names) do
    verify(seen[name], period_of(name))
    save(name, seen[name])
  end
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'verified', whole(now), 'near', near, 'last', whole(last))
  redis.call('PEXPIRE', KEYS[1], whole(604800000))  -- KNOWN_MS
  return {now, #entries, suspected}
end

-- A send is judged…

local enforce, enforce_budget, country, price = ARGV[5] == '1', ARGV[6] == '1', ARGV[7], tonumber(ARGV[8])
local again_ms, permille = tonumber(ARGV[14]), tonumber(ARGV[15])
local verified, refused, verified_near, last, entries = number()
local open = 0  -- those that enforcing would have let through
for _, entry in ipairs(entries) do
  open = open + (entry.suspected and 0 or 1)
end
local is_new = open == 0
local broken, fills = {}, {}
local passed_by, is_only_passable = 0, true

local function threshold_of(counter, floor, ratio)
  return floor + math.floor(ratio * lately(counter, period) / 1000)
end

local function amount_of(threshold, of)
  return math.max(1, math.floor(of / threshold))
end

-- Was anything verified there in this window or the seven before it?
local function is_known(counter)
  return counter.verified + counter.before > 0 and counter.window + KNOWN_WINDOWS >= math.floor(now / period)
end

local function look(rule, name, floor, ratio)
  local counter = load(name)
  local threshold = threshold_of(counter, floor, ratio)
  local amount = amount_of(threshold, period)
  fills[#fills + 1] = {name, amount, counter}
  local is_full = level(counter, period) + amount > period
  if is_full and rule ~= 8 then
    broken[#broken + 1] = {rule, math.ceil(level(counter, period) * threshold / period), threshold}
  end
  return is_full, counter
end

-- Country and prefix are the first that a send fills.
local function has_room(most)
  return level(fills[1][3], period) + fills[1][2] <= most and level(fills[2][3], period) + fills[2][2] <= most
end

if #KEYS > 2 then
  local own = string.sub(KEYS[3], #base + 1)
  for i = 5, #KEYS do
    local at = 18 + 3 * (i - 5)
    if is_new or ARGV[at + 1] == '0' then
      local is_full = look(i - 4, string.sub(KEYS[i], #base + 1), tonumber(ARGV[at]), permille)
      is_only_passable = is_only_passable and (not is_full or ARGV[at + 2] == '1')
    end
  end
  if is_new then
    local is_full, all = look(7, own .. '/*', tonumber(ARGV[17]), permille)
    is_only_passable = is_only_passable and not is_full
    local is_open, counter = look(8, own .. '/' .. country, 1, 1000)
    if not is_open and lately(counter, period) == 0 then
      local count, flat = 0, redis.call('HGETALL', KEYS[3])
      for i = 1, #flat, 2 do
        if flat[i] ~= '*' and flat[i] ~= country then
          local other = read(flat[i + 1])
          if level(other, period) + amount_of(threshold_of(other, 1, 1000), period) > period then
            count = count + 1
          elseif level(other, period) == 0 and lately(other, period) == 0 then
            redis.call('HDEL', KEYS[3], flat[i])
          end
        end
      end
      local threshold = tonumber(ARGV[16]) + math.max(lately(all, period), is_known(all) and 1 or 0)
      if count >= threshold then
        broken[#broken + 1] = {8, count, threshold}
        is_only_passable = false
      end
    end
  end
  local near = string.sub(KEYS[4], #base + 1)
  local counter, amount = load(near), 0
  if #broken > 0 then
    local known, of = lately(counter, period_of(near)), period_of(near)
    local is_lately = verified > 0 and verified + tonumber(ARGV[11]) > now
    if is_lately and verified_near == near and open < tonumber(ARGV[12]) then
      passed_by = 1
    elseif is_only_passable then
      local more = amount_of(2 + math.floor(2 * permille * known / 1000), of)  -- NEAR_FLOOR, NEAR_TIMES
      if known > 0 and level(counter, of) + more <= of then
        passed_by, amount = 2, more
      elseif known > 0 or is_known(load(own .. '/*')) then
        passed_by = has_room(most_of(period, 3)) and 3 or 0
      elseif refused > 0 and refused + again_ms > now and open < tonumber(ARGV[12]) then
        passed_by = has_room(most_of(period, 4)) and 4 or 0
      end
    end
  end
  fills[#fills + 1] = {near, amount, counter}
end
local is_suspected = #broken > 0 and passed_by == 0
if is_suspected then
  redis.call('HSET', KEYS[1], 'near', verified_near .. ' ' .. whole(now))
  redis.call('PEXPIRE', KEYS[1], whole(math.max(again_ms, redis.call('PTTL', KEYS[1]))))
end

turn_day()
local over, alarms = false, {0, 0}
for i, scope in ipairs({'total', 'in:' .. country}) do
  local spent, limit = tonumber(redis.call('HGET', KEYS[2], scope) or 0), tonumber(ARGV[8 + i])
  if price > 0 and limit >= 0 and spent + price > limit then
    over = true
    broken[#broken + 1] = {8 + i, spent, limit}
    alarms[i] = redis.call('HSETNX', KEYS[2], 'alarmed:' .. scope, 1)
  end
end

local taken = 0
if not (is_suspected and enforce) and not (over and enforce_budget) then
  taken = last + 1
  local text = whole(now) .. ' ' .. redis.call('HGET', KEYS[2], 'day') .. ' ' .. country .. ' ' .. whole(price) .. ' '
    .. (is_suspected and '1' or '0')
  for _, fill in ipairs(fills) do
    local name, amount, counter = fill[1], fill[2], fill[3]
    local before = level(counter, period_of(name))
    amount = is_suspected and 0 or math.min(amount, math.max(0, most_of(period_of(name), passed_by) - before))
    text = text .. ' ' .. name .. '=' .. whole(amount)
    if amount > 0 then
      counter.tat = now + before + amount
      save(name, counter)
    end
  end
  redis.call('HSET', KEYS[1], 'last', whole(taken), whole(taken), text)
  if #entries >= tonumber(ARGV[13]) then
    redis.call('HDEL', KEYS[1], whole(entries[1].number))
  end
  redis.call('PEXPIRE', KEYS[1], whole(math.max(period, 3600000, redis.call('PTTL', KEYS[1]))))
  spend(country, price)
end

local answer = {now, taken, passed_by, tonumber(redis.call('HGET', KEYS[2], 'total') or 0),
  tonumber(redis.call('HGET', KEYS[2], 'in:' .. country) or 0), alarms[1], alarms[2]}
for _, one in ipairs(broken) do
  for _, value in ipairs(one) do
    answer[#answer + 1] = value
  end
end
return answer
